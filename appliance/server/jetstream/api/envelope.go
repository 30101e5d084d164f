package api

// Entries of one page.
const (
	NamesPage    = 1024    // of NAMES responses
	ListPage     = 256     // of LIST responses
	SubjectsPage = 100_000 // of the subjects in a stream info
)

// Response types.
const (
	typePrefix = "io.nats.jetstream.api.v1."

	TypeSystem         = typePrefix + "system_response"
	TypeAccountInfo    = typePrefix + "account_info_response"
	TypeStreamCreate   = typePrefix + "stream_create_response"
	TypeStreamUpdate   = typePrefix + "stream_update_response"
	TypeStreamDelete   = typePrefix + "stream_delete_response"
	TypeStreamInfo     = typePrefix + "stream_info_response"
	TypeStreamNames    = typePrefix + "stream_names_response"
	TypeStreamList     = typePrefix + "stream_list_response"
	TypeStreamPurge    = typePrefix + "stream_purge_response"
	TypeMsgGet         = typePrefix + "stream_msg_get_response"
	TypeMsgDelete      = typePrefix + "stream_msg_delete_response"
	TypeConsumerCreate = typePrefix + "consumer_create_response"
	TypeConsumerInfo   = typePrefix + "consumer_info_response"
	TypeConsumerNames  = typePrefix + "consumer_names_response"
	TypeConsumerList   = typePrefix + "consumer_list_response"
	TypeConsumerDelete = typePrefix + "consumer_delete_response"
	TypeConsumerPause  = typePrefix + "consumer_pause_response"
	TypeConsumerReset  = typePrefix + "consumer_reset_response"
)

// Response is the envelope of every API answer. Type is one of the Type constants.
type Response struct {
	Type  string `json:"type"`
	Error *Error `json:"error,omitempty"`
}

// Paged is the envelope of a page: entries in all, index of the first one here, page size.
type Paged struct {
	Total  int `json:"total"`
	Offset int `json:"offset"`
	Limit  int `json:"limit"`
}

// PagedRequest asks for the page that starts at Offset.
type PagedRequest struct {
	Offset int `json:"offset"`
}

// Page returns the part of all that starts at offset and holds at most limit entries, and its
// envelope. An offset behind the end gives an empty page, never null in JSON; a negative one counts
// as zero.
func Page[T any](all []T, offset, limit int) ([]T, Paged) {
	offset = min(max(offset, 0), len(all))
	p := Paged{Total: len(all), Offset: offset, Limit: limit}
	return append([]T{}, all[offset:min(offset+limit, len(all))]...), p
}
