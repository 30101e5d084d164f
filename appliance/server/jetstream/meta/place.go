package meta

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"millrace/appliance/server/jetstream/api"
)

// UnknownRoom is what a candidate has free that has not told, or has no limit.
const UnknownRoom = math.MaxInt64

// Candidate is a node that may get a replica, and what speaks for it.
type Candidate struct {
	Node                  uint64
	Name, Cluster         string
	Tags                  []string
	Online                bool
	Replicas              int   // that it has
	StoreFree, MemoryFree int64 // bytes that are neither used nor reserved
}

// Placement is what is asked for.
type Placement struct {
	Replicas    int
	Tags        []string // that a node has to have, or with "!" before it not to have
	UniqueTag   string   // prefix of a tag that no two nodes have the same, such as "zone:"; empty: none
	Cluster     string   // that a node has to be of; empty: any
	Storage     api.Storage
	Bytes       int64    // that each node reserves
	Keep, Avoid []uint64 // nodes that come first, if they are candidates, and such that do not come at all
	Strict      bool     // nodes to keep, too, have to have the tags and be of the cluster
	Preferred   string   // name of the node that comes first of the new ones
}

// PlacementOf returns what a stream's configuration asks for, without nodes to keep.
func PlacementOf(c *api.StreamConfig, uniqueTag string) Placement {
	p := Placement{Replicas: c.Replicas, Storage: c.Storage, Bytes: max(c.MaxBytes, 0), UniqueTag: uniqueTag}
	if c.Placement != nil {
		p.Tags, p.Cluster, p.Preferred = c.Placement.Tags, c.Placement.Cluster, c.Placement.Preferred
	}
	return p
}

// noPeers begins the description of error 10005, as nats-server's does.
const noPeers = "no suitable peers for placement"

// excludeTag on a node keeps replicas away from it, as with nats-server.
const excludeTag = "!jetstream"

// Place chooses the nodes of a group.
//
// Nodes to keep come first, those that are online before others, in their order; when there are too many
// of them, one of each unique tag is kept before a second one. New nodes fit: they have the tags, are of the
// cluster, have room for Bytes, and a unique tag that no other chosen one has. Those online come before
// others, which are chosen only as long as a quorum can be reached. Then comes who carries fewest replicas,
// then who has most room; when Bytes are to be reserved it is the other way round. What is equal is ordered by
// id, so that equal arguments have equal answers; what is placed next finds other loads.
//
// As with nats-server, naming a tag with the prefix of the unique tag turns that off, and a unique tag is
// strict: five nodes in three zones have room for three replicas, one a zone, and five are refused. Without
// the unique tag five replicas are on all five nodes, of which the loss of a zone with two leaves a quorum.
//
// A node that is alone, and so of no cluster, is not asked for tags, as with nats-server.
//
// Errors are 10005 with what the nodes that did not fit lacked.
func Place(candidates []Candidate, p Placement) ([]uint64, *api.Error) {
	if len(candidates) == 1 && candidates[0].Cluster == "" {
		p.Tags, p.UniqueTag, p.Cluster = nil, "", ""
	}
	unique := p.UniqueTag
	if slices.ContainsFunc(p.Tags, func(t string) bool { return hasPrefix(strings.TrimPrefix(t, "!"), unique) }) {
		unique = ""
	}
	kept, fresh, why := sift(candidates, &p)
	sortKept(kept, unique, &p)
	slices.SortStableFunc(fresh, func(a, b Candidate) int { return compare(&a, &b, &p) })
	taken := map[string]bool{}
	var nodes []uint64
	online := 0
	for _, c := range kept {
		if len(nodes) == p.Replicas {
			break
		}
		taken[tagOf(&c, unique)] = true
		nodes = append(nodes, c.Node)
		online++ // as nats-server: what has the data is not judged by whether it can be reached now
	}
	for _, c := range fresh {
		if len(nodes) == p.Replicas {
			break
		}
		tag := tagOf(&c, unique)
		if unique != "" && (tag == "" || taken[tag]) {
			why.uniqueTag = true
			continue
		}
		taken[tag] = true
		nodes = append(nodes, c.Node)
		if c.Online {
			online++
		} else {
			why.offline = true
		}
	}
	if len(nodes) < p.Replicas || online < p.Replicas/2+1 {
		return nil, api.ErrClusterNoPeersF(why.String())
	}
	return nodes, nil
}

// sift returns the candidates to keep and the others that fit, and what those lack that do not.
func sift(candidates []Candidate, p *Placement) (kept, fresh []Candidate, why misfit) {
	for _, c := range candidates {
		keep := slices.Contains(p.Keep, c.Node)
		switch {
		case slices.Contains(p.Avoid, c.Node):
		case keep && !p.Strict:
			kept = append(kept, c)
		case p.Cluster != "" && c.Cluster != p.Cluster:
		case !keep && hasTag(&c, excludeTag):
			why.excludeTag = true
		case !why.fits(&c, p.Tags):
		case keep:
			kept = append(kept, c)
		case p.Bytes > 0 && c.free(p.Storage) < p.Bytes:
			why.noStorage = true
		default:
			fresh = append(fresh, c)
		}
	}
	why.noNodes = len(candidates) == 0
	return kept, fresh, why
}

// sortKept brings first those that stay if not all do.
func sortKept(kept []Candidate, unique string, p *Placement) {
	slices.SortFunc(kept, func(a, b Candidate) int {
		return cmp.Or(first(a.Online, b.Online), cmp.Compare(slices.Index(p.Keep, a.Node), slices.Index(p.Keep, b.Node)))
	})
	if unique == "" || len(kept) <= p.Replicas {
		return
	}
	again, seen := map[uint64]bool{}, map[string]bool{}
	for _, c := range kept {
		tag := tagOf(&c, unique)
		again[c.Node] = seen[tag]
		seen[tag] = true
	}
	slices.SortStableFunc(kept, func(a, b Candidate) int {
		return cmp.Or(first(a.Online, b.Online), first(!again[a.Node], !again[b.Node]))
	})
}

// compare orders candidates: who comes first gets a replica before the other.
func compare(a, b *Candidate, p *Placement) int {
	load, room := cmp.Compare(a.Replicas, b.Replicas), cmp.Compare(b.free(p.Storage), a.free(p.Storage))
	by := cmp.Or(load, room)
	if p.Bytes > 0 {
		by = cmp.Or(room, load)
	}
	return cmp.Or(
		first(a.Online, b.Online),
		first(p.Preferred != "" && a.Name == p.Preferred, p.Preferred != "" && b.Name == p.Preferred),
		by, cmp.Compare(a.Node, b.Node))
}

// first orders what is before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (c *Candidate) free(s api.Storage) int64 {
	if s == api.MemoryStorage {
		return c.MemoryFree
	}
	return c.StoreFree
}

// hasTag reports whether a node has a tag. Case does not matter, as with nats-server.
func hasTag(c *Candidate, tag string) bool {
	return slices.ContainsFunc(c.Tags, func(t string) bool { return strings.EqualFold(t, strings.TrimSpace(tag)) })
}

func hasPrefix(tag, prefix string) bool {
	return prefix != "" && len(tag) >= len(prefix) && strings.EqualFold(tag[:len(prefix)], prefix)
}

// tagOf returns the node's first tag with a prefix, empty if there is none.
func tagOf(c *Candidate, prefix string) string {
	for _, t := range c.Tags {
		if hasPrefix(t, prefix) {
			return strings.ToLower(t)
		}
	}
	return ""
}

// misfit is what candidates lacked.
type misfit struct {
	offline, excludeTag, noStorage, uniqueTag, noNodes bool
	missing, excluded                                  []string // tags
}

// fits reports whether a candidate has the tags that it has to have, and none that it is not to have.
func (w *misfit) fits(c *Candidate, tags []string) bool {
	for _, t := range tags {
		name, not := strings.CutPrefix(t, "!")
		if hasTag(c, name) != not {
			continue
		}
		list := &w.missing
		if not {
			list = &w.excluded
		}
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
		return false
	}
	return true
}

// String is the description of the error, in nats-server's words.
func (w *misfit) String() string {
	slices.Sort(w.missing)
	slices.Sort(w.excluded)
	s := noPeers
	for _, reason := range []struct {
		is   bool
		text string
	}{
		{w.offline, "peer offline"}, {w.excludeTag, "exclude tag set"}, {w.noStorage, "insufficient storage"},
		{w.uniqueTag, "server tag not unique"}, {w.noNodes, "jetstream not enabled in cluster"},
		{len(w.missing) > 0, fmt.Sprintf("tags not matched ['%s']", strings.Join(w.missing, "''"))},
		{len(w.excluded) > 0, fmt.Sprintf("tags excluded ['%s']", strings.Join(w.excluded, "''"))},
	} {
		if reason.is {
			s += ", " + reason.text
		}
	}
	return s
}
