package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

const (
	askTimeout = 2 * time.Second

	// maxServers bounds how many servers are asked.
	maxServers = 4

	// soonest and latest are the pauses between questions: short while nobody answers or the clock is
	// off, longer each time it is right.
	soonest = 30 * time.Second
	latest  = 17 * time.Minute
)

// Config says how the time is kept.
type Config struct {
	Servers []string // names or addresses, with or without port

	// Doubtful says that the clock is wrong for sure: any time that a server tells is better, once, before Start
	// returns.
	Doubtful bool

	// Earliest is a time that has passed; a server that tells an earlier one is not believed.
	Earliest time.Time

	// Ask asks one server; nil asks by SNTP.
	Ask func(ctx context.Context, server string) (Sample, error)

	// Set corrects the clock by an offset, at once (Step) or by and by (Slew); nil corrects the kernel's.
	Set func(a Action, offset time.Duration) error

	// Say is told for people how well the time is known, each time that is looked at.
	Say func(text string)

	Logger *slog.Logger
}

// Clock keeps the time until Close.
type Clock struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start asks at once, and returns when the clock is right for the first time, but after wait at the
// latest: until then millraced does not run and the clock may be set back, from then on it may not.
func Start(ctx context.Context, c Config, wait time.Duration) *Clock {
	if c.Ask == nil {
		c.Ask = askSNTP
	}
	if c.Set == nil {
		c.Set = setKernel
	}
	if len(c.Servers) > maxServers {
		c.Servers = c.Servers[:maxServers]
	}
	ctx, cancel := context.WithCancel(ctx)
	k := &Clock{cfg: c, cancel: cancel}
	first, stop := context.WithTimeout(ctx, wait)
	err := k.once(first, false)
	if err != nil {
		c.Logger.Warn("no time server has answered yet, going on with the clock as it is", "cause", err)
		c.Say("not known from a time server: " + err.Error())
	}
	stop()
	k.wg.Go(func() { k.run(ctx, err == nil) })
	return k
}

// Close stops asking. A correction that is under way goes on in the kernel.
func (k *Clock) Close() {
	k.cancel()
	k.wg.Wait()
}

func (k *Clock) run(ctx context.Context, known bool) {
	pause := soonest
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		err := k.once(ctx, true)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if known { // each loss once
				k.cfg.Logger.Warn("time servers do not answer", "cause", err)
				k.cfg.Say("not known since time servers stopped answering: " + err.Error())
			}
			pause = soonest
		default:
			pause = min(2*pause, latest)
		}
		known = err == nil
	}
}

// once asks all servers and corrects the clock.
func (k *Clock) once(ctx context.Context, running bool) error {
	var mu sync.Mutex
	var samples []Sample
	var errs []error
	var asking sync.WaitGroup
	for _, server := range k.cfg.Servers {
		asking.Go(func() {
			s, err := k.cfg.Ask(ctx, server)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", server, err))
			} else {
				samples = append(samples, s)
			}
		})
	}
	asked := make(chan struct{})
	k.wg.Go(func() { asking.Wait(); close(asked) })
	select {
	case <-asked:
	case <-ctx.Done(): // resolving a name may take longer than anybody waits
	}
	mu.Lock()
	answers := sorted(samples) // a copy: who answers late still appends
	err := errors.Join(errs...)
	mu.Unlock()
	if len(answers) == 0 {
		return errors.Join(errors.New("no answer"), err)
	}
	s, agreeing := best(answers)
	action, refused := decide(s.Offset, agreeing, running, k.cfg.Doubtful)
	if time.Now().Add(s.Offset).Before(k.cfg.Earliest) {
		refused = "that time has passed"
	}
	if refused != "" {
		k.cfg.Say(fmt.Sprintf("left as it is: %s says it is off by %s, but %s", s.Server, s.Offset.Round(time.Second), refused))
		k.cfg.Logger.Error("the clock is far off but is left as it is", "by", s.Offset.String(), "server", s.Server, "cause", refused)
		return nil
	}
	if action != Nothing {
		if err := k.cfg.Set(action, s.Offset); err != nil {
			return fmt.Errorf("set clock: %w", err)
		}
	}
	if action == Step {
		k.cfg.Logger.Info("clock set", "by", s.Offset.Round(time.Millisecond).String(), "server", s.Server)
	} else if running && s.Offset < -forwardStep {
		k.cfg.Logger.Warn("the clock is ahead and made slower, since it must not go back", "by", s.Offset.Abs().String(), "server", s.Server)
	}
	k.cfg.Say(describe(s, agreeing))
	return nil
}

// askSNTP asks a server by SNTP (RFC 5905), with the checks of a client.
func askSNTP(_ context.Context, server string) (Sample, error) {
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: askTimeout})
	if err != nil {
		return Sample{}, err
	}
	if err := r.Validate(); err != nil {
		return Sample{}, err
	}
	return Sample{Server: server, Offset: r.ClockOffset, Error: r.RootDistance}, nil
}
