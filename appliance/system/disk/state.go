package disk

import (
	"fmt"
	"io"

	"millrace/image/layout"
)

// lookState says what is in the state partition: Data that is ours, or Empty when it may be formatted.
// What the partition held before it was made is nobody's any more, flashing the disk said so; but a
// start that is not empty is refused, since it may be something that another system put there.
func lookState(r io.ReaderAt, size int64) (Content, error) {
	interrupted, err := marked(r, size)
	if err != nil {
		return Unreadable, err
	}
	if interrupted {
		return Empty, nil
	}
	head, err := readUpTo(r, 0, edgeBytes, size)
	if err != nil {
		return Unreadable, err
	}
	if sb, ok := parseExt4(head); ok {
		if sb.label == layout.StateLabel {
			return Data, nil
		}
		return Foreign, fmt.Errorf("it holds an ext4 file system labelled %q, which is not ours: left alone", sb.label)
	}
	if i := firstNonZero(head); i >= 0 {
		return Foreign, fmt.Errorf("it holds unknown data at byte %d: left alone; flashing the disk again clears it", i)
	}
	return Empty, nil
}
