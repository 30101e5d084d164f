package box

import (
	"context"
	"fmt"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/update"
)

func (s *Service) upload(_ context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.UploadRequest](data)
	if err != nil {
		return nil, err
	}
	if s.cfg.Uploads == nil {
		return nil, ErrNoState
	}
	have, err := s.cfg.Uploads.Begin(r.SHA256, r.Size)
	if err != nil {
		return nil, err
	}
	s.audit("upload of an image", "sha256", r.SHA256, "bytes", fmt.Sprint(r.Size), "of which are here", fmt.Sprint(have))
	return boxapi.Upload{Offset: have, Window: update.Window}, nil
}

func (s *Service) chunk(_ context.Context, data []byte) (any, error) {
	if s.cfg.Uploads == nil {
		return nil, ErrNoState
	}
	r, err := boxapi.DecodeChunk(data)
	if err != nil {
		return nil, err
	}
	have, err := s.cfg.Uploads.Write(r.SHA256, r.Offset, r.Data)
	return boxapi.Upload{Offset: have, Window: update.Window}, err
}

func (s *Service) install(_ context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.InstallRequest](data)
	if err != nil {
		return nil, err
	}
	if s.cfg.Uploads == nil {
		return nil, ErrNoState
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	image, err := s.cfg.Uploads.Take(r.SHA256)
	if err != nil {
		return nil, err
	}
	slot, err := s.cfg.Install(image)
	if err != nil {
		return nil, fmt.Errorf("image not installed: %w", err)
	}
	s.audit("image installed", "version", slot.Version, "file", slot.Name)
	if r.Reboot {
		s.cfg.Power(true, "update to "+slot.Version)
	}
	return boxapi.Installed{Version: slot.Version, File: slot.Name}, nil
}
