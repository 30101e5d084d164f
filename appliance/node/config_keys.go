package node

import (
	"fmt"
	"maps"
	"slices"
)

// Keys that nats-server 2.15 knows and this version does not serve, by block. They are refused by
// name, so that a file never asks for something that silently does not happen.
var (
	unsupportedServer = []string{
		"account_resolver", "accounts_resolver", "allow_non_tls", "client_advertise",
		"connect_error_reports", "default_js_domain", "default_sentinel", "disable_sublist_cache",
		"feature_flags", "gateway", "http", "http_base_path", "http_port", "https", "https_port",
		"leaf", "leafnodes", "log_max_num", "log_size_limit", "logfile_max_num",
		"logfile_size_limit", "mappings", "maps", "max_closed_clients", "max_sub_tokens",
		"max_subscription_tokens", "max_traced_msg_len", "monitor_port", "mqtt",
		"no_fast_producer_stall", "no_header_support", "no_sublist_cache", "no_sys_acc",
		"no_system", "no_system_account", "ocsp", "ocsp_cache", "operator", "operators",
		"ports_file_dir", "prof_block_rate", "prof_port", "proxies", "proxy_protocol",
		"reconnect_error_reports", "remote_syslog", "resolver", "resolver_pinned_accounts",
		"resolver_preload", "resolver_tls", "root", "root_operator", "root_operators", "roots",
		"server_metadata", "syslog", "trace_headers", "trace_verbose", "trusted",
		"trusted_keys", "websocket", "write_timeout", "ws",
	}
	unsupportedTLS = []string{
		"allow_insecure_cipher_suites", "ca_certs_match", "cert_match", "cert_match_by",
		"cert_match_skip_invalid", "cert_store", "certificates", "certs", "cipher_suites",
		"connection_rate_limit", "curve_preferences", "first", "handshake_first", "immediate",
		"insecure", "min_version", "ocsp_peer", "pinned_certs", "verify_and_map",
		"verify_cert_and_check_known_urls",
	}
	unsupportedJetStream = []string{
		"extension_hint", "info_queue_limit", "max_buffered_msgs", "max_buffered_size",
		"max_concurrent_io", "max_outstanding_catchup", "meta_compact", "meta_compact_size",
		"meta_compact_sync", "request_queue_limit", "strict", "tpm",
	}
	unsupportedJetStreamLimits = []string{"batch", "default_max_consumers", "max_ha_assets"}
	unsupportedAccount         = []string{
		"exports", "imports", "mappings", "maps", "msg_trace", "nkey", "trace_dest",
	}
	unsupportedAccountLimits    = []string{"max_leafnodes", "max_leafs"}
	unsupportedAccountJetStream = []string{"cluster_traffic"}
	unsupportedAuthorization    = []string{"auth_callout", "auth_hook", "proxy_required"}
	unsupportedCluster          = []string{"accounts", "permissions", "write_timeout"}
	unsupportedUser             = []string{
		"allowed_connection_types", "clients", "connection_types", "proxy_required",
	}
)

// suggest returns ` (did you mean "…"?)` for the known key that is nearest to an unknown one,
// nothing when none is near.
func suggest(key string, s schema) string {
	known := slices.Concat(slices.Sorted(maps.Keys(s.fields)), slices.Sorted(maps.Keys(s.aliases)), s.unsupported)
	best, bestDistance := "", max(1, len(key)/3)+1
	for _, k := range known {
		if d := distance(key, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the number of bytes to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
