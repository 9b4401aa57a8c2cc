package boltstore

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/varint"
)

// What stands in the file, byte for byte. Numbers of a fixed size are big-endian, so that keys sort as the numbers do.

const (
	recordVersion = 2         // begins every value, so that a later version can tell
	flagDropped   = 1         // marks a message whose request was dropped to make room
	recordHeader  = 1 + 1 + 8 // the version, the flags and the time of receipt
)

var errDamaged = errors.New("a record in the file is damaged")

// record is a stored message: what Put was given. Its slices point into the file's memory and end with the transaction.
type record struct {
	received                  time.Time
	dropped                   bool
	id, key, subject, request []byte
}

// message is what Put was given, without the request.
func (r record) message(seq uint64, state inbox.State) *inbox.Message {
	return &inbox.Message{
		Seq: seq, ID: string(r.id), Key: string(r.key), Subject: string(r.subject), Received: r.received, State: state,
	}
}

func encodeRecord(m *inbox.Message) []byte {
	b := make([]byte, 0, recordHeader+3*binary.MaxVarintLen32+len(m.ID)+len(m.Key)+len(m.Subject)+len(m.Request))
	b = binary.BigEndian.AppendUint64(append(b, recordVersion, 0), uint64(m.Received.UnixMicro()))
	for _, text := range []string{m.ID, m.Key, m.Subject} {
		b = varint.AppendText(b, text)
	}
	return append(b, m.Request...)
}

func decodeRecord(b []byte) (record, error) {
	if len(b) < recordHeader || b[0] != recordVersion {
		return record{}, errDamaged
	}
	r := record{dropped: b[1]&flagDropped != 0, received: time.UnixMicro(int64(binary.BigEndian.Uint64(b[2:]))).UTC()}
	f := varint.Reader{Rest: b[recordHeader:]}
	r.id, r.key, r.subject = f.Text(), f.Text(), f.Text()
	if r.request = f.Rest; f.Broken {
		return record{}, errDamaged
	}
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
	b := []byte{recordVersion}
	for _, n := range []uint64{uint64(p.attempts), uint64(p.when.UnixMicro()), uint64(p.answer.Status)} {
		b = binary.AppendUvarint(b, n)
	}
	return varint.AppendText(varint.AppendText(b, p.answer.Body), p.answer.Error)
}

func decodeProgress(b []byte) (progress, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return progress{}, errDamaged
	}
	f := varint.Reader{Rest: b[1:]}
	attempts, when, status := f.Number(1<<40), f.Number(math.MaxUint64), f.Number(1<<31-1)
	answer := inbox.Answer{Status: int(status), Body: string(f.Text()), Error: string(f.Text())}
	if f.Broken || len(f.Rest) > 0 {
		return progress{}, errDamaged
	}
	return progress{attempts: int(attempts), when: time.UnixMicro(int64(when)).UTC(), answer: answer}, nil
}

// counters are the numbers of the file, kept in it so that nothing is counted when it is opened.
type counters struct {
	Count   [inDead + 1]int64 // of the messages in each bucket; in requests, of those that are in no other
	Bytes   int64             // what counts against MaxBytes
	Last    uint64            // the last seq given out
	Low     uint64            // no message before it was never tried, unless one of its key holds it up
	Dropped moment            // the requests of what was settled up to here are dropped
}

func (c *counters) encode() []byte {
	b, _ := binary.Append([]byte{recordVersion}, binary.BigEndian, c) // it cannot fail for numbers
	return b
}

func decodeCounters(b []byte) (c counters, err error) {
	if len(b) != 1+binary.Size(c) || b[0] != recordVersion {
		return c, errDamaged
	}
	_, err = binary.Decode(b[1:], binary.BigEndian, &c)
	return c, err
}

// moment is a time and a message: the key of what is sorted by time. The time is in microseconds, shifted so that the
// order of the bytes is that of the times.
type moment struct{ At, Seq uint64 }

func momentOf(t time.Time, seq uint64) moment { return moment{uint64(t.UnixMicro()) ^ 1<<63, seq} }

func (m moment) time() time.Time { return time.UnixMicro(int64(m.At ^ 1<<63)).UTC() }

func (m moment) key() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, 16), m.At), m.Seq)
}

func (m moment) compare(other moment) int {
	return cmp.Or(cmp.Compare(m.At, other.At), cmp.Compare(m.Seq, other.Seq))
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

func digestOf[T string | []byte](s T) digest {
	sum := sha256.Sum256([]byte(s))
	return digest(sum[:16])
}

// orderKey is the place of a message among those of its key.
func orderKey(d digest, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 24), d[:]...), seq)
}
