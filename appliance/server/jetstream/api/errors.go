package api

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Error is an API error as it stands in a response.
type Error struct {
	Code        int    `json:"code"` // an HTTP status by meaning
	ErrCode     uint16 `json:"err_code,omitempty"`
	Description string `json:"description,omitempty"`
}

// Error returns the description and the err_code.
func (e *Error) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Is reports whether target is an API error with the same err_code, whatever its description, so
// that errors.Is works with the values and with the results of the functions below.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.ErrCode == e.ErrCode
}

// errorRow is an error as nats-server names it; the description may hold {placeholders}.
type errorRow struct {
	constant    string
	code        int
	errCode     uint16
	description string
}

// lookup returns the error with that err_code, its placeholders replaced by the pairs of
// placeholder and text. An err_code or placeholder that is not in the table is a mistake in this
// package.
func lookup(errCode uint16, pairs ...string) *Error {
	i := sort.Search(len(errorTable), func(i int) bool { return errorTable[i].errCode >= errCode })
	if i == len(errorTable) || errorTable[i].errCode != errCode {
		panic(fmt.Sprintf("BUG: no API error %d", errCode))
	}
	row := errorTable[i]
	if strings.Count(row.description, "{") != len(pairs)/2 {
		panic(fmt.Sprintf("BUG: API error %d wants other placeholders: %s", errCode, row.description))
	}
	return &Error{row.code, row.errCode, strings.NewReplacer(pairs...).Replace(row.description)}
}

// Errors without placeholders, named as in nats-server without JS and Err. They are shared: never
// change their fields. The description of each stands in errorTable.
var (
	// Of any request.
	ErrAccountResourcesExceeded = lookup(10002)
	ErrBadRequest               = lookup(10003)
	ErrClusterNotActive         = lookup(10006)
	ErrClusterRequired          = lookup(10010)
	ErrStreamMoveAndScale       = lookup(10123)
	ErrClusterNotAvail          = lookup(10008)
	ErrClusterPeerNotMember     = lookup(10040)
	ErrClusterNotLeader         = lookup(10009)
	ErrClusterServerNotMember   = lookup(10044)
	ErrPeerRemap                = lookup(10075)

	ErrClusterServerMemberChangeInflight = lookup(10202)
	ErrInsufficientResources             = lookup(10023)
	ErrNoAccount                         = lookup(10035)
	ErrNotEmptyRequest                   = lookup(10038)
	ErrNotEnabledForAccount              = lookup(10039)
	ErrNotEnabled                        = lookup(10076)
	ErrNoLimits                          = lookup(10120)
	ErrRequiredApiLevel                  = lookup(10185)

	// Of streams.
	ErrStreamReconfigureNotInProgress   = lookup(10129)
	ErrStreamReconfigureInProgress      = lookup(10226)
	ErrMaximumStreamsLimit              = lookup(10027)
	ErrStreamMismatch                   = lookup(10056)
	ErrStreamNameExist                  = lookup(10058)
	ErrStreamNotFound                   = lookup(10059)
	ErrStreamReplicasNotUpdatable       = lookup(10061)
	ErrStreamSubjectOverlap             = lookup(10065)
	ErrStreamReplicasNotSupported       = lookup(10074)
	ErrStreamInvalid                    = lookup(10096)
	ErrStreamMaxBytesRequired           = lookup(10113)
	ErrStreamInfoMaxSubjects            = lookup(10117)
	ErrStreamOffline                    = lookup(10118)
	ErrStreamMaxStreamBytesExceeded     = lookup(10122)
	ErrStreamNameContainsPathSeparators = lookup(10128)
	ErrReplicasCountCannotBeNegative    = lookup(10133)

	// Of consumers.
	ErrConsumerNameExist                          = lookup(10013)
	ErrConsumerNotFound                           = lookup(10014)
	ErrConsumerDurableNameNotInSubject            = lookup(10016)
	ErrConsumerDurableNameNotMatchSubject         = lookup(10017)
	ErrConsumerDurableNameNotSet                  = lookup(10018)
	ErrConsumerEphemeralWithDurableInSubject      = lookup(10019)
	ErrConsumerEphemeralWithDurableName           = lookup(10020)
	ErrMaximumConsumersLimit                      = lookup(10026)
	ErrConsumerConfigRequired                     = lookup(10078)
	ErrConsumerDeliverToWildcards                 = lookup(10079)
	ErrConsumerPushMaxWaiting                     = lookup(10080)
	ErrConsumerDeliverCycle                       = lookup(10081)
	ErrConsumerMaxPendingAckPolicyRequired        = lookup(10082)
	ErrConsumerSmallHeartbeat                     = lookup(10083)
	ErrConsumerPullRequiresAck                    = lookup(10084)
	ErrConsumerPullNotDurable                     = lookup(10085)
	ErrConsumerPullWithRateLimit                  = lookup(10086)
	ErrConsumerMaxWaitingNegative                 = lookup(10087)
	ErrConsumerHBRequiresPush                     = lookup(10088)
	ErrConsumerFCRequiresPush                     = lookup(10089)
	ErrConsumerDirectRequiresPush                 = lookup(10090)
	ErrConsumerDirectRequiresEphemeral            = lookup(10091)
	ErrConsumerOnMapped                           = lookup(10092)
	ErrConsumerFilterNotSubset                    = lookup(10093)
	ErrConsumerWQRequiresExplicitAck              = lookup(10098)
	ErrConsumerWQMultipleUnfiltered               = lookup(10099)
	ErrConsumerWQConsumerNotUnique                = lookup(10100)
	ErrConsumerWQConsumerNotDeliverAll            = lookup(10101)
	ErrConsumerBadDurableName                     = lookup(10103)
	ErrConsumerExistingActive                     = lookup(10105)
	ErrConsumerReplacementWithDifferentName       = lookup(10106)
	ErrConsumerWithFlowControlNeedsHeartbeats     = lookup(10108)
	ErrConsumerInvalidDeliverSubject              = lookup(10112)
	ErrConsumerMaxRequestBatchNegative            = lookup(10114)
	ErrConsumerMaxRequestExpiresTooSmall          = lookup(10115)
	ErrConsumerMaxDeliverBackoff                  = lookup(10116)
	ErrConsumerOffline                            = lookup(10119)
	ErrConsumerReplicasExceedsStream              = lookup(10126)
	ErrConsumerNameContainsPathSeparators         = lookup(10127)
	ErrConsumerCreateFilterSubjectMismatch        = lookup(10131)
	ErrConsumerCreateDurableAndNameMismatch       = lookup(10132)
	ErrConsumerReplicasShouldMatchStream          = lookup(10134)
	ErrConsumerDuplicateFilterSubjects            = lookup(10136)
	ErrConsumerMultipleFiltersNotAllowed          = lookup(10137)
	ErrConsumerOverlappingSubjectFilters          = lookup(10138)
	ErrConsumerEmptyFilter                        = lookup(10139)
	ErrConsumerAlreadyExists                      = lookup(10148)
	ErrConsumerDoesNotExist                       = lookup(10149)
	ErrConsumerPriorityPolicyWithoutGroup         = lookup(10159)
	ErrConsumerInvalidPriorityGroup               = lookup(10160)
	ErrConsumerEmptyGroupName                     = lookup(10161)
	ErrConsumerInvalidGroupName                   = lookup(10162)
	ErrConsumerPushWithPriorityGroup              = lookup(10178)
	ErrConsumerAckPolicyInvalid                   = lookup(10181)
	ErrConsumerReplayPolicyInvalid                = lookup(10182)
	ErrConsumerAckWaitNegative                    = lookup(10183)
	ErrConsumerBackOffNegative                    = lookup(10184)
	ErrConsumerPriorityGroupWithPolicyNone        = lookup(10196)
	ErrConsumerPinnedTTLWithoutPriorityPolicyNone = lookup(10197)

	// Of publishes and stored messages.
	ErrMemoryResourcesExceeded                 = lookup(10028)
	ErrNoMessageFound                          = lookup(10037)
	ErrStorageResourcesExceeded                = lookup(10047)
	ErrStreamMessageExceedsMaximum             = lookup(10054)
	ErrStreamNotMatch                          = lookup(10060)
	ErrStreamSequenceNotMatch                  = lookup(10063)
	ErrStreamHeaderExceedsMaximum              = lookup(10097)
	ErrStreamSealed                            = lookup(10109)
	ErrStreamDuplicateMessageConflict          = lookup(10158)
	ErrStreamExpectedLastSeqPerSubjectNotReady = lookup(10163)
	ErrStreamWrongLastSequenceConstant         = lookup(10164)
	ErrMessageTTLInvalid                       = lookup(10165)
	ErrMessageTTLDisabled                      = lookup(10166)
	ErrStreamTooManyRequests                   = lookup(10167)
	ErrMessageIncrDisabled                     = lookup(10168)
	ErrAtomicPublishDisabled                   = lookup(10174)
	ErrStreamMinLastSeq                        = lookup(10180)
	ErrMessageSchedulesDisabled                = lookup(10188)
	ErrStreamExpectedLastSeqPerSubjectInvalid  = lookup(10193)
	ErrBatchPublishDisabled                    = lookup(10205)
	ErrMessageSourceHdrNotAllowed              = lookup(10227)
)

// ErrClusterNoPeersF refuses a placement that no server satisfies.
func ErrClusterNoPeersF(reason string) *Error {
	return lookup(10005, "{err}", reason)
}

// ErrConsumerCreateF refuses a consumer.
func ErrConsumerCreateF(reason string) *Error {
	return lookup(10012, "{err}", reason)
}

// ErrInvalidJSONF refuses a request body.
func ErrInvalidJSONF(reason string) *Error {
	return lookup(10025, "{err}", reason)
}

// ErrRaftGeneralF says why a group could not do what it was asked for.
func ErrRaftGeneralF(reason string) *Error {
	return lookup(10041, "{err}", reason)
}

// ErrSequenceNotFoundF says that no message has the sequence.
func ErrSequenceNotFoundF(seq uint64) *Error {
	return lookup(10043, "{seq}", strconv.FormatUint(seq, 10))
}

// ErrStreamCreateF says why a stream could not be created.
func ErrStreamCreateF(reason string) *Error {
	return lookup(10049, "{err}", reason)
}

// ErrStreamDeleteF says why a stream could not be deleted.
func ErrStreamDeleteF(reason string) *Error {
	return lookup(10050, "{err}", reason)
}

// ErrStreamGeneralF says why a stream could not serve a request.
func ErrStreamGeneralF(reason string) *Error {
	return lookup(10051, "{err}", reason)
}

// ErrStreamInvalidConfigF refuses a stream configuration.
func ErrStreamInvalidConfigF(reason string) *Error {
	return lookup(10052, "{err}", reason)
}

// ErrStreamLimitsF refuses a stream beyond the limits of its account.
func ErrStreamLimitsF(reason string) *Error {
	return lookup(10053, "{err}", reason)
}

// ErrStreamMsgDeleteFailedF says why a message could not be deleted.
func ErrStreamMsgDeleteFailedF(reason string) *Error {
	return lookup(10057, "{err}", reason)
}

// ErrStreamUpdateF says why a stream could not be updated.
func ErrStreamUpdateF(reason string) *Error {
	return lookup(10069, "{err}", reason)
}

// ErrStreamWrongLastMsgIDF refuses a publish and tells the last message id.
func ErrStreamWrongLastMsgIDF(id string) *Error {
	return lookup(10070, "{id}", id)
}

// ErrStreamWrongLastSequenceF refuses a publish and tells the last sequence.
func ErrStreamWrongLastSequenceF(seq uint64) *Error {
	return lookup(10071, "{seq}", strconv.FormatUint(seq, 10))
}

// ErrStreamStoreFailedF refuses a publish for the reason that the store or a limit gives.
func ErrStreamStoreFailedF(reason string) *Error {
	return lookup(10077, "{err}", reason)
}

// ErrConsumerInvalidPolicyF refuses a combination of deliver policy and start.
func ErrConsumerInvalidPolicyF(reason string) *Error {
	return lookup(10094, "{err}", reason)
}

// ErrConsumerInvalidSamplingF refuses a sample frequency.
func ErrConsumerInvalidSamplingF(reason string) *Error {
	return lookup(10095, "{err}", reason)
}

// ErrConsumerNameTooLongF refuses a consumer name.
func ErrConsumerNameTooLongF(limit int) *Error {
	return lookup(10102, "{max}", strconv.Itoa(limit))
}

// ErrConsumerStoreFailedF says why a consumer's state could not be stored.
func ErrConsumerStoreFailedF(reason string) *Error {
	return lookup(10104, "{err}", reason)
}

// ErrConsumerDescriptionTooLongF refuses a consumer description.
func ErrConsumerDescriptionTooLongF(limit int) *Error {
	return lookup(10107, "{max}", strconv.Itoa(limit))
}

// ErrStreamPurgeFailedF says why a purge was not done.
func ErrStreamPurgeFailedF(reason string) *Error {
	return lookup(10110, "{err}", reason)
}

// ErrStreamRollupFailedF refuses a rollup.
func ErrStreamRollupFailedF(reason string) *Error {
	return lookup(10111, "{err}", reason)
}

// ErrConsumerMaxPendingAckExcessF refuses a max ack pending.
func ErrConsumerMaxPendingAckExcessF(limit int) *Error {
	return lookup(10121, "{limit}", strconv.Itoa(limit))
}

// ErrConsumerMaxRequestBatchExceededF refuses a max batch.
func ErrConsumerMaxRequestBatchExceededF(limit int) *Error {
	return lookup(10125, "{limit}", strconv.Itoa(limit))
}

// ErrConsumerMetadataLengthF refuses consumer metadata.
func ErrConsumerMetadataLengthF(limit string) *Error {
	return lookup(10135, "{limit}", limit)
}

// ErrConsumerInactiveThresholdExcessF refuses an inactive threshold.
func ErrConsumerInactiveThresholdExcessF(limit string) *Error {
	return lookup(10153, "{limit}", limit)
}

// ErrStreamTransformInvalidSourceF refuses the source of a subject transform.
func ErrStreamTransformInvalidSourceF(reason string) *Error {
	return lookup(10155, "{err}", reason)
}

// ErrStreamTransformInvalidDestinationF refuses a subject transform.
func ErrStreamTransformInvalidDestinationF(reason string) *Error {
	return lookup(10156, "{err}", reason)
}

// ErrPedanticF refuses what a default would have changed.
func ErrPedanticF(reason string) *Error {
	return lookup(10157, "{err}", reason)
}

// ErrStreamOfflineReasonF says why a stream is offline.
func ErrStreamOfflineReasonF(reason string) *Error {
	return lookup(10194, "{err}", reason)
}

// ErrConsumerOfflineReasonF says why a consumer is offline.
func ErrConsumerOfflineReasonF(reason string) *Error {
	return lookup(10195, "{err}", reason)
}

// ErrConsumerInvalidResetF refuses a consumer reset.
func ErrConsumerInvalidResetF(reason string) *Error {
	return lookup(10204, "{err}", reason)
}
