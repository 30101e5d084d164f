// Package meta is the catalogue of the streams and durable consumers of all accounts: the pure state
// machine that the meta group's log drives. It does no I/O and reads no clock; the jetstream engine
// proposes entries, carries out the Effects and answers clients. Ephemeral consumers are not here,
// they live with their stream's leader.
package meta
