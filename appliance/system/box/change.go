package box

import (
	"context"
	"fmt"
	"slices"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/disk"
	"millrace/appliance/system/state"
)

func (s *Service) power(_ context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.PowerRequest](data)
	if err != nil {
		return nil, err
	}
	if r.Off {
		s.audit("power off")
	} else {
		s.audit("reboot")
	}
	s.cfg.Power(!r.Off, "asked by the system account")
	return boxapi.Done{}, nil
}

func (s *Service) reset(ctx context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.ResetRequest](data)
	if err != nil {
		return nil, err
	}
	if s.cfg.State == nil {
		return nil, ErrNoState
	}
	if name := s.cfg.Info(ctx).Name; r.Name != name {
		return nil, fmt.Errorf("reset of %q asked of %q: nothing done", r.Name, name)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.audit("reset", "data too", fmt.Sprint(r.Data))
	if err := s.cfg.State.Give(state.Orders{Reset: true, EraseData: r.Data}); err != nil {
		return nil, err
	}
	s.cfg.Power(true, "reset asked by the system account")
	return boxapi.Done{}, nil
}

func (s *Service) configGet(context.Context, []byte) (any, error) {
	return boxapi.Config{Text: s.cfg.ConfigText()}, nil
}

func (s *Service) configSet(ctx context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.Config](data)
	if err != nil {
		return nil, err
	}
	if s.cfg.State == nil {
		return nil, ErrNoState
	}
	if err := s.cfg.CheckConfig(ctx, r.Text); err != nil {
		return nil, fmt.Errorf("configuration not taken: %w", err)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.audit("new configuration")
	if err := s.cfg.State.SetConfig(r.Text); err != nil {
		return nil, err
	}
	if !r.Reboot {
		return boxapi.Done{Note: "it counts from the next start on"}, nil
	}
	s.cfg.Power(true, "new configuration")
	return boxapi.Done{}, nil
}

func (s *Service) disks(context.Context, []byte) (any, error) {
	found, err := s.cfg.Disks()
	if err != nil {
		return nil, err
	}
	out := boxapi.Disks{Disks: []boxapi.Disk{}}
	for _, d := range found {
		x := boxapi.Disk{Name: d.Name, Serial: d.Serial, Model: d.Model, Bytes: d.Bytes, Holds: d.Detail}
		switch {
		case d.Content == disk.System:
			x.Use = "system"
		case slices.Contains(s.cfg.DataDisks(), d.Name):
			x.Use = "data"
		}
		out.Disks = append(out.Disks, x)
	}
	return out, nil
}

func (s *Service) takeDisk(_ context.Context, data []byte) (any, error) {
	r, err := decode[boxapi.TakeRequest](data)
	if err != nil {
		return nil, err
	}
	if s.cfg.State == nil {
		return nil, ErrNoState
	}
	found, err := s.cfg.Disks()
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if d.Name != r.Disk {
			continue
		}
		want := d.Serial
		if want == "" {
			want = d.Name
		}
		switch {
		case r.Erase == "":
			return nil, fmt.Errorf("nothing done: what disk %s holds is lost only when its erasure is asked for by its name %q", d.Name, want)
		case r.Erase != want:
			return nil, fmt.Errorf("nothing done: disk %s is called %q, not %q", d.Name, want, r.Erase)
		case slices.Contains(s.cfg.DataDisks(), d.Name):
			return nil, fmt.Errorf("disk %s is a data disk of this box already", d.Name)
		}
		// What the next start will decide is decided now, to say no while somebody listens.
		if decision := disk.Decide(found, disk.Wish{Erase: want}); decision.Action != disk.Format {
			return nil, fmt.Errorf("disk %s cannot be taken: %v", d.Name, decision.Notes)
		}
		s.changing.Lock()
		defer s.changing.Unlock()
		s.audit("take a disk for data and erase it", "disk", d.String(), "it holds", d.Detail)
		if err := s.cfg.State.Give(state.Orders{TakeDisk: want}); err != nil {
			return nil, err
		}
		s.cfg.Power(true, "new data disk")
		return boxapi.Done{}, nil
	}
	return nil, fmt.Errorf("there is no disk %s", r.Disk)
}
