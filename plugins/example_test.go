package plugins_test

import (
	"context"
	"fmt"

	"millrace/plugins"
)

// printer is a Sink that prints.
type printer struct{}

func (printer) Commit(batch []plugins.Message, e *plugins.Effects) error {
	for i, s := range e.Settled {
		fmt.Println(batch[i].Subject, s.Kind)
	}
	return nil
}

func (printer) Fail(m *plugins.Message, err error) error {
	fmt.Println(m.Subject, err)
	return nil
}

func Example() {
	ctx := context.Background()
	rt, err := plugins.Open(plugins.Config{})
	if err != nil {
		panic(err)
	}
	// A guest of a hundred bytes that acknowledges everything.
	m, err := rt.Compile(ctx, guest{batch: ackAll}.bytes())
	if err != nil {
		panic(err)
	}
	defer m.Close()
	r := plugins.NewRunner(m, plugins.InstanceConfig{Stream: "ORDERS"})
	defer r.Close()
	batch := []plugins.Message{{Seq: 1, Subject: "orders.new"}, {Seq: 2, Subject: "orders.paid"}}
	if err := r.Run(ctx, batch, printer{}); err != nil {
		panic(err)
	}
	// Output:
	// orders.new ack
	// orders.paid ack
}
