package jetstream

// Kept counts what the engine keeps for streams and consumers that run here, besides these themselves, and for
// requests under way: tests compare it before and after many of them have come and gone.
type Kept struct{ Replicas, Moves, Calls, Entries, Jobs int }

// Kept returns the counts of now.
func (e *Engine) Kept() Kept {
	var k Kept
	e.members.mu.Lock()
	k.Replicas = len(e.members.assets)
	e.members.mu.Unlock()
	e.members.driver.mu.Lock()
	k.Moves = len(e.members.driver.moves)
	e.members.driver.mu.Unlock()
	e.calls.mu.Lock()
	k.Calls = len(e.calls.waiting)
	e.calls.mu.Unlock()
	e.catalog.mu.Lock()
	k.Entries = len(e.catalog.waiting)
	e.catalog.mu.Unlock()
	for i := range e.lanes {
		k.Jobs += e.lanes[i].len()
	}
	return k
}
