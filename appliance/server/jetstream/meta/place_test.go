package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"millrace/appliance/server/jetstream/api"
)

// parseCandidates reads nodes 1, 2, …: words such as "zone:a", "off", "load=3", "free=10", "cluster=C2".
func parseCandidates(t *testing.T, nodes ...string) []Candidate {
	var list []Candidate
	for i, words := range nodes {
		c := Candidate{Node: testNode(uint64(i + 1)), Name: fmt.Sprintf("n%d", i+1), Cluster: "C1", Online: true,
			StoreFree: UnknownRoom, MemoryFree: UnknownRoom}
		for _, w := range strings.Fields(words) {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "off":
				c.Online = false
			case "load":
				mustScan(t, value, &c.Replicas)
			case "free":
				mustScan(t, value, &c.StoreFree)
			case "memory":
				mustScan(t, value, &c.MemoryFree)
			case "cluster":
				c.Cluster = value
			default:
				c.Tags = append(c.Tags, w)
			}
		}
		list = append(list, c)
	}
	return list
}

func mustScan(t *testing.T, s string, to any) {
	t.Helper()
	if _, err := fmt.Sscan(s, to); err != nil {
		t.Fatal(err)
	}
}

func TestPlace(t *testing.T) {
	zones := []string{"zone:a", "zone:a", "zone:b", "zone:b", "zone:c"}
	const no = "no suitable peers for placement"
	for _, c := range []struct {
		name  string
		nodes []string
		p     Placement
		want  string // nodes, or the description of the error
	}{
		{"none", nil, Placement{Replicas: 1}, no + ", jetstream not enabled in cluster"},
		{"equal", []string{"", "", ""}, Placement{Replicas: 2}, "1 2"},
		{"least loaded", []string{"load=3", "load=1", "load=2"}, Placement{Replicas: 2}, "2 3"},
		{"most room of those", []string{"load=1 free=9", "load=1 free=10", "load=2 free=99"}, Placement{Replicas: 2}, "2 1"},
		{"most room to reserve", []string{"load=1 free=9", "load=1 free=10", "load=2 free=99"}, Placement{Replicas: 2, Bytes: 9}, "3 2"},
		{"room in memory", []string{"memory=1", "memory=9", "memory=8"}, Placement{Replicas: 2, Bytes: 5, Storage: api.MemoryStorage}, "2 3"},
		{"no room", []string{"free=9", "free=10", "free=0"}, Placement{Replicas: 2, Bytes: 10}, no + ", insufficient storage"},
		{"online first", []string{"off", "load=9", "load=8"}, Placement{Replicas: 2}, "3 2"},
		{"two of three are enough", []string{"off", "", ""}, Placement{Replicas: 3}, "2 3 1"},
		{"no quorum", []string{"off", "off", ""}, Placement{Replicas: 3}, no + ", peer offline"},
		{"one that is off", []string{"off"}, Placement{Replicas: 1}, no + ", peer offline"},
		{"tags", []string{"ssd", "SSD x", "x"}, Placement{Replicas: 2, Tags: []string{"Ssd"}}, "1 2"},
		{"tags not there", []string{"ssd", "x", "y"}, Placement{Replicas: 2, Tags: []string{"ssd", "z"}}, no + ", tags not matched ['ssd''z']"},
		{"tags excluded", []string{"ssd", "x", "y"}, Placement{Replicas: 2, Tags: []string{"!ssd"}}, "2 3"},
		{"too many excluded", []string{"ssd", "ssd", "y"}, Placement{Replicas: 2, Tags: []string{"!ssd"}}, no + ", tags excluded ['ssd']"},
		{"not for streams", []string{"!jetstream", ""}, Placement{Replicas: 2}, no + ", exclude tag set"},
		{"cluster", []string{"cluster=C2", "", "cluster=C2"}, Placement{Replicas: 2, Cluster: "C2"}, "1 3"},
		{"alone", []string{"cluster="}, Placement{Replicas: 1, Cluster: "C2", Tags: []string{"x"}, UniqueTag: "zone:"}, "1"},
		{"no such cluster", []string{"", ""}, Placement{Replicas: 1, Cluster: "C2"}, no},
		{"one a zone", zones, Placement{Replicas: 3, UniqueTag: "zone:"}, "1 3 5"},
		{"one a zone, least loaded", []string{"zone:a load=1", "zone:a", "zone:b load=1", "zone:b", "zone:c load=9"},
			Placement{Replicas: 3, UniqueTag: "ZONE:"}, "2 4 5"},
		{"more than zones", zones, Placement{Replicas: 5, UniqueTag: "zone:"}, no + ", server tag not unique"},
		{"everywhere", zones, Placement{Replicas: 5}, "1 2 3 4 5"},
		{"no zone", []string{"zone:a", ""}, Placement{Replicas: 2, UniqueTag: "zone:"}, no + ", server tag not unique"},
		{"a zone asked for", zones, Placement{Replicas: 2, UniqueTag: "zone:", Tags: []string{"zone:b"}}, "3 4"},
		{"keep", []string{"", "load=9", "", "load=8"}, Placement{Replicas: 3, Keep: testNodes(4, 2)}, "4 2 1"},
		{"keep those online", []string{"", "", ""}, Placement{Replicas: 1, Keep: testNodes(3, 2, 1)}, "3"},
		{"keep those online first", []string{"", "off", "off"}, Placement{Replicas: 1, Keep: testNodes(3, 2, 1)}, "1"},
		{"keep one a zone", zones, Placement{Replicas: 3, UniqueTag: "zone:", Keep: testNodes(1, 2, 3, 4, 5)}, "1 3 5"},
		{"keep, and one of another zone", zones, Placement{Replicas: 3, UniqueTag: "zone:", Keep: testNodes(1, 4)}, "1 4 5"},
		{"keep what does not fit", []string{"", "x"}, Placement{Replicas: 1, Tags: []string{"x"}, Keep: testNodes(1)}, "1"},
		{"keep strictly", []string{"", "x"}, Placement{Replicas: 1, Tags: []string{"x"}, Keep: testNodes(1), Strict: true}, "2"},
		{"keep one that is gone", []string{"", ""}, Placement{Replicas: 1, Keep: testNodes(7)}, "1"},
		{"avoid", []string{"", "", ""}, Placement{Replicas: 2, Keep: testNodes(1, 2), Avoid: testNodes(1)}, "2 3"},
		{"preferred", []string{"", "", "load=9"}, Placement{Replicas: 2, Preferred: "n3"}, "3 1"},
	} {
		list := parseCandidates(t, c.nodes...)
		for range 3 { // the order in which they are given does not matter
			nodes, err := Place(list, c.p)
			var got []string
			for _, n := range nodes {
				got = append(got, fmt.Sprint(n>>NodeBits))
			}
			if err != nil {
				got = []string{err.Description}
				if err.ErrCode != 10005 || err.Code != 400 {
					t.Errorf("%s: %+v", c.name, err)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: %q, want %q", c.name, s, c.want)
			}
			slices.Reverse(list)
		}
	}
}

// TestPlaceSurvivesALostZone places streams, one after the other, in clusters of 2+2+1 nodes in three zones: of each,
// a quorum is outside of any zone. With the unique tag that holds for 3 replicas, without it for 5.
func TestPlaceSurvivesALostZone(t *testing.T) {
	for _, c := range []struct {
		replicas int
		unique   string
	}{{3, "zone:"}, {5, ""}} {
		list := parseCandidates(t, "zone:a", "zone:b", "zone:a", "zone:c", "zone:b")
		r := rand.New(rand.NewPCG(uint64(c.replicas), 0))
		for range 200 {
			for i := range list {
				list[i].StoreFree = r.Int64N(1000)
			}
			nodes, err := Place(list, Placement{Replicas: c.replicas, UniqueTag: c.unique, Bytes: r.Int64N(2)})
			if err != nil {
				continue // some had no room at all
			}
			in := map[string]int{}
			for i := range list {
				if slices.Contains(nodes, list[i].Node) {
					in[list[i].Tags[0]]++
					list[i].Replicas++
				}
			}
			for zone, n := range in {
				if left := c.replicas - n; left < c.replicas/2+1 {
					t.Fatalf("%d replicas: %v: without %s %d are left", c.replicas, in, zone, left)
				}
			}
		}
	}
}

// TestPlaceProperties places on random clusters.
func TestPlaceProperties(t *testing.T) {
	placed, refused := 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		var list []Candidate
		for i := range r.Uint64N(8) {
			list = append(list, Candidate{Node: testNode(i + 1), Name: fmt.Sprint(i), Cluster: "C", Online: r.IntN(5) != 0,
				Tags: []string{fmt.Sprintf("zone:%d", r.IntN(4)), fmt.Sprintf("disk:%d", r.IntN(2))}, Replicas: r.IntN(4), StoreFree: r.Int64N(100)})
		}
		p := Placement{Replicas: 1 + r.IntN(5), Bytes: r.Int64N(2) * r.Int64N(60)}
		if r.IntN(2) == 0 {
			p.UniqueTag = "zone:"
		}
		if r.IntN(3) == 0 {
			p.Tags = []string{"disk:1"}
		}
		for range r.IntN(3) {
			p.Keep = append(p.Keep, testNode(1+r.Uint64N(8)))
		}
		slices.Sort(p.Keep)
		p.Keep = slices.Compact(p.Keep)
		nodes, err := Place(list, p)
		shuffled := slices.Clone(list)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, errAgain := Place(shuffled, p)
		if !slices.Equal(nodes, again) || (err == nil) != (errAgain == nil) {
			t.Fatalf("seed %d: %x, and %x of the same nodes", seed, nodes, again)
		}
		if err != nil {
			refused++
			continue
		}
		placed++
		if len(nodes) != p.Replicas {
			t.Fatalf("seed %d: %d nodes for %d", seed, len(nodes), p.Replicas)
		}
		zones, reach := map[string]bool{}, 0
		for i, node := range nodes {
			at := slices.IndexFunc(list, func(c Candidate) bool { return c.Node == node })
			if at < 0 || slices.Contains(nodes[:i], node) {
				t.Fatalf("seed %d: %x of %v", seed, nodes, list)
			}
			c := list[at]
			zone, isNew := c.Tags[0], !slices.Contains(p.Keep, node)
			switch {
			case isNew && p.UniqueTag != "" && zones[zone]:
				t.Fatalf("seed %d: %x has %s again", seed, nodes, zone)
			case isNew && (c.StoreFree < p.Bytes || p.Tags != nil && c.Tags[1] != "disk:1"):
				t.Fatalf("seed %d: %+v for %+v", seed, c, p)
			case !isNew && i > 0 && !slices.Contains(p.Keep, nodes[i-1]):
				t.Fatalf("seed %d: %x, kept %x", seed, nodes, p.Keep)
			}
			zones[zone] = true
			if c.Online || !isNew {
				reach++
			}
		}
		if reach < p.Replicas/2+1 {
			t.Fatalf("seed %d: %d of %d can be reached", seed, reach, p.Replicas)
		}
	}
	if placed < 300 || refused < 300 {
		t.Errorf("%d placed, %d refused", placed, refused)
	}
}

// TestPlaceSpreads places many streams of one replica and wants all nodes to have as many, but for one.
func TestPlaceSpreads(t *testing.T) {
	list := parseCandidates(t, "", "", "", "", "")
	for n := range 103 {
		nodes, err := Place(list, Placement{Replicas: 1 + n%3})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if slices.Contains(nodes, list[i].Node) {
				list[i].Replicas++
			}
		}
	}
	for _, c := range list {
		if d := c.Replicas - list[0].Replicas; d < -1 || d > 1 {
			t.Errorf("loads %d and %d", c.Replicas, list[0].Replicas)
		}
	}
}
