package api

// AccountInfoResponse answers INFO.
type AccountInfoResponse struct {
	Response
	*AccountStats
}

// StreamConfigRequest is the body of STREAM.CREATE and STREAM.UPDATE.
type StreamConfigRequest struct {
	StreamConfig
	// Pedantic refuses a configuration that defaults would change, instead of changing it.
	Pedantic bool `json:"pedantic,omitempty"`
}

// StreamCreateResponse answers STREAM.CREATE.
type StreamCreateResponse struct {
	Response
	*StreamInfo
	DidCreate bool `json:"did_create,omitempty"`
}

// StreamUpdateResponse answers STREAM.UPDATE.
type StreamUpdateResponse struct {
	Response
	*StreamInfo
}

// StreamDeleteResponse answers STREAM.DELETE.
type StreamDeleteResponse struct {
	Response
	Success bool `json:"success,omitempty"`
}

// StreamInfoRequest is the body of STREAM.INFO.
type StreamInfoRequest struct {
	PagedRequest
	DeletedDetails bool   `json:"deleted_details,omitempty"`
	SubjectsFilter string `json:"subjects_filter,omitempty"`
}

// StreamInfoResponse answers STREAM.INFO. The page is that of State.Subjects.
type StreamInfoResponse struct {
	Response
	Paged
	*StreamInfo
}

// StreamNamesRequest is the body of STREAM.NAMES and STREAM.LIST; Subject restricts the answer to
// streams with a subject that overlaps it.
type StreamNamesRequest struct {
	PagedRequest
	Subject string `json:"subject,omitempty"`
}

// StreamNamesResponse answers STREAM.NAMES.
type StreamNamesResponse struct {
	Response
	Paged
	Streams []string `json:"streams"`
}

// StreamListResponse answers STREAM.LIST.
type StreamListResponse struct {
	Response
	Paged
	Streams []*StreamInfo     `json:"streams"`
	Missing []string          `json:"missing,omitempty"`
	Offline map[string]string `json:"offline,omitempty"`
}

// StreamPurgeRequest is the body of STREAM.PURGE.
type StreamPurgeRequest struct {
	Sequence uint64 `json:"seq,omitempty"`    // purge below this sequence
	Subject  string `json:"filter,omitempty"` // purge what this filter matches
	Keep     uint64 `json:"keep,omitempty"`   // messages to keep; not together with Sequence
}

// StreamPurgeResponse answers STREAM.PURGE.
type StreamPurgeResponse struct {
	Response
	Success bool   `json:"success,omitempty"`
	Purged  uint64 `json:"purged"`
}
