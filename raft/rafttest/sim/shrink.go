package sim

import "slices"

// Shrink looks for a run that fails like a given one with fewer classes of faults, one client and one group
// less, and no longer than it has to be. It returns the smallest configuration that it found.
func Shrink(cfg Config, failure *Failure) (Config, *Failure) {
	cfg.Trace = nil
	try := func(c Config) bool {
		r := Run(c)
		if r.Failure == nil || r.Failure.Check != failure.Check {
			return false
		}
		cfg, failure = c, r.Failure
		return true
	}
	for _, f := range Faults() {
		if !slices.Contains(cfg.Without, f) {
			c := cfg
			c.Without = append(slices.Clone(cfg.Without), f)
			try(c)
		}
	}
	for _, fewer := range []func(*Config){
		func(c *Config) { c.Groups = 1 }, func(c *Config) { c.Nodes = 3 }, func(c *Config) { c.Clients = 1 },
	} {
		c := cfg
		fewer(&c)
		try(c)
	}
	return cfg, failure
}
