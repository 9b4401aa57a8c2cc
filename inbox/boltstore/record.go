package boltstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// What stands in the file, byte for byte. Numbers of a fixed size are big-endian, so that keys sort as the numbers do.

// recordVersion begins every value, so that a later version can tell.
const recordVersion = 2

// flagDropped marks a message whose request was dropped to make room.
const flagDropped = 1

// recordHeader is the version, the flags and the time of receipt.
const recordHeader = 1 + 1 + 8

var errDamaged = errors.New("a record in the file is damaged")

// record is a stored message: what Put was given. Its slices point into the file's memory and end with the transaction.
type record struct {
	received time.Time
	dropped  bool
	id, key  []byte
	subject  []byte
	request  []byte
}

// encodeRecord makes a record's bytes.
func encodeRecord(m *inbox.Message) []byte {
	b := make([]byte, 0, recordHeader+3*binary.MaxVarintLen32+len(m.ID)+len(m.Key)+len(m.Subject)+len(m.Request))
	b = append(b, recordVersion, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Received.UnixMicro()))
	b = appendText(b, m.ID)
	b = appendText(b, m.Key)
	b = appendText(b, m.Subject)
	return append(b, m.Request...)
}

// decodeRecord reads a record.
func decodeRecord(b []byte) (r record, err error) {
	if len(b) < recordHeader {
		return r, errDamaged
	}
	if b[0] != recordVersion {
		return r, fmt.Errorf("%w: version %d", errDamaged, b[0])
	}
	r.dropped = b[1]&flagDropped != 0
	r.received = time.UnixMicro(int64(binary.BigEndian.Uint64(b[2:]))).UTC()
	b = b[recordHeader:]
	if r.id, b, err = text(b); err != nil {
		return r, err
	}
	if r.key, b, err = text(b); err != nil {
		return r, err
	}
	if r.subject, b, err = text(b); err != nil {
		return r, err
	}
	r.request = b
	return r, nil
}

// stub returns the record's bytes without the request.
func stub(b []byte, r record) []byte {
	short := bytes.Clone(b[:len(b)-len(r.request)])
	short[1] |= flagDropped
	return short
}

// progress is what became of a message so far: of one that waits for a retry, when it is due; of a settled one, since
// when it is.
type progress struct {
	attempts int
	when     time.Time
	answer   inbox.Answer
}

func (p progress) encode() []byte {
	b := make([]byte, 0, 1+4*binary.MaxVarintLen64+len(p.answer.Body)+len(p.answer.Error))
	b = append(b, recordVersion)
	b = binary.AppendUvarint(b, uint64(p.attempts))
	b = binary.AppendVarint(b, p.when.UnixMicro())
	b = binary.AppendVarint(b, int64(p.answer.Status))
	b = appendText(b, p.answer.Body)
	return appendText(b, p.answer.Error)
}

func decodeProgress(b []byte) (p progress, err error) {
	if len(b) == 0 {
		return p, errDamaged
	}
	if b[0] != recordVersion {
		return p, fmt.Errorf("%w: version %d", errDamaged, b[0])
	}
	b = b[1:]
	attempts, n := binary.Uvarint(b)
	if n <= 0 || attempts > 1<<40 {
		return p, errDamaged
	}
	b = b[n:]
	when, n := binary.Varint(b)
	if n <= 0 {
		return p, errDamaged
	}
	b = b[n:]
	status, n := binary.Varint(b)
	if n <= 0 || status != int64(int32(status)) {
		return p, errDamaged
	}
	b = b[n:]
	body, b, err := text(b)
	if err != nil {
		return p, err
	}
	word, b, err := text(b)
	if err != nil || len(b) > 0 {
		return p, errDamaged
	}
	return progress{attempts: int(attempts), when: time.UnixMicro(when).UTC(),
		answer: inbox.Answer{Status: int(status), Body: string(body), Error: string(word)}}, nil
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func text(b []byte) (s, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errDamaged
	}
	return b[n : n+int(size)], b[n+int(size):], nil
}

// counters are the numbers of the file, kept in it so that nothing is counted when it is opened.
type counters struct {
	Pending, Delivered, Dead, Bytes int64

	Last    uint64 // the last seq given out
	Low     uint64 // every message from here on that is in no other bucket was never tried; before it, none
	Indexed uint64 // the ids up to here stand in the index
	Dropped moment // the requests of what was settled up to here are dropped
}

func (c *counters) encode() []byte {
	b := make([]byte, 0, 1+7*8+16)
	b = append(b, recordVersion)
	for _, n := range []uint64{uint64(c.Pending), uint64(c.Delivered), uint64(c.Dead), uint64(c.Bytes), c.Last, c.Low, c.Indexed} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return append(b, c.Dropped.key()...)
}

func decodeCounters(b []byte) (c counters, err error) {
	if len(b) != 1+7*8+16 || b[0] != recordVersion {
		return c, errDamaged
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	c.Pending, c.Delivered, c.Dead, c.Bytes = int64(n(0)), int64(n(1)), int64(n(2)), int64(n(3))
	c.Last, c.Low, c.Indexed = n(4), n(5), n(6)
	c.Dropped, err = decodeMoment(b[1+7*8:])
	return c, err
}

// moment is a time and a message: the key of what is sorted by time. The time is in microseconds, shifted so that the
// order of the bytes is that of the times.
type moment struct{ at, seq uint64 }

// never is after every moment.
var never = moment{at: 1<<64 - 1, seq: 1<<64 - 1}

func momentOf(t time.Time, seq uint64) moment { return moment{uint64(t.UnixMicro()) ^ 1<<63, seq} }

func (m moment) time() time.Time { return time.UnixMicro(int64(m.at ^ 1<<63)).UTC() }

func (m moment) key() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, 16), m.at), m.seq)
}

func (m moment) compare(other moment) int {
	switch {
	case m.at < other.at || m.at == other.at && m.seq < other.seq:
		return -1
	case m == other:
		return 0
	}
	return 1
}

func decodeMoment(b []byte) (moment, error) {
	if len(b) != 16 {
		return moment{}, errDamaged
	}
	return moment{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), seq) }

func decodeSeq(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// digest stands for an id or a key in an index. What it finds is compared with the record, so that a collision is
// harmless.
type digest [16]byte

func digestOf(s string) digest {
	sum := sha256.Sum256([]byte(s))
	return digest(sum[:16])
}

// orderKey is the place of a message among those of its key.
func orderKey(d digest, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 24), d[:]...), seq)
}
