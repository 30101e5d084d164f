package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
)

// uploadFlight is how many chunks are on their way at a time: enough that neither the wire nor the box waits for the
// other, and few enough that a slow box answers each within the time.
const uploadFlight = 4

// upload sends an image to a box.
type upload struct {
	conn     *nats.Conn
	timeout  time.Duration // without any answer
	box      string        // id of its server
	image    fileImage
	pace     pace
	progress func(at int64)
}

// begin returns how far the box is.
func (u *upload) begin(ctx context.Context) (at boxapi.Upload, err error) {
	began := time.Now()
	err = askBox(ctx, u.conn, u.timeout, u.box, boxapi.VerbUpload,
		boxapi.UploadRequest{Size: int64(len(u.image.data)), SHA256: u.image.sum}, &at)
	if err == nil {
		u.pace.answered(time.Since(began))
	}
	return at, err
}

// send sends what is behind at, and returns how far the box is then. It gives up when no chunk is answered for the timeout,
// or with the first that is refused; chunks that are still on their way then do no harm.
func (u *upload) send(ctx context.Context, at boxapi.Upload) (boxapi.Upload, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	silence := time.AfterFunc(u.timeout, func() { cancel(fmt.Errorf("no answer for %v", u.timeout)) })
	defer silence.Stop()

	type answer struct {
		at   boxapi.Upload
		took time.Duration
		err  error
	}
	answers := make(chan answer, uploadFlight)
	size := int64(len(u.image.data))
	next, flying := at.Offset, 0
	for at.Offset < size {
		for flying < uploadFlight && next < size {
			end := min(size, next+u.pace.piece)
			if flying > 0 && end > at.Offset+at.Window {
				break // the box has room for no more
			}
			chunk := boxapi.Chunk{SHA256: u.image.sum, Offset: next, Data: u.image.data[next:end]}
			wg.Go(func() {
				sent := time.Now()
				got, err := u.ask(ctx, chunk)
				answers <- answer{got, time.Since(sent), err} // has room
			})
			next, flying = end, flying+1
		}
		if flying == 0 {
			return at, fmt.Errorf("the box has all of %d bytes and says that it is at byte %d", size, at.Offset)
		}
		a := <-answers
		flying--
		if a.err != nil {
			return at, errors.Join(a.err, context.Cause(ctx))
		}
		if a.at.Offset > size {
			return at, fmt.Errorf("the box says that it is at byte %d of %d", a.at.Offset, size)
		}
		silence.Reset(u.timeout)
		u.pace.answered(a.took)
		if a.at.Offset > at.Offset { // answers may overtake one another
			at = a.at
			u.progress(at.Offset)
		}
	}
	return at, nil
}

// ask sends one chunk.
func (u *upload) ask(ctx context.Context, chunk boxapi.Chunk) (at boxapi.Upload, err error) {
	data, err := chunk.Encode()
	if err != nil {
		return at, err
	}
	return at, requestBox(ctx, u.conn, u.box, boxapi.VerbData, data, &at)
}
