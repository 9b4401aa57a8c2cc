package boltstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestRecordBytes fixes the bytes: files of an earlier version must stay readable.
func TestRecordBytes(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 30, 15, 123_456_000, time.UTC)
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"record", encodeRecord(&inbox.Message{ID: "id", Key: "k", Subject: "31", Received: at, Request: []byte("body")}),
			"0200" + "00064bf5a1dfa600" + "02" + "6964" + "01" + "6b" + "02" + "3331" + "626f6479"},
		{"record without key, subject and request", encodeRecord(&inbox.Message{ID: "id", Received: at}), "0200" + "00064bf5a1dfa600" + "02" + "6964" + "00" + "00"},
		{"progress", progress{attempts: 300, when: at, answer: inbox.Answer{Status: 503, Body: "b", Error: "e"}}.encode(),
			"02" + "ac02" + "80ccfe8edafe9203" + "f703" + "0162" + "0165"},
		{"counters", (&counters{Count: [4]int64{1, 2, 3, 4}, Bytes: 5, Last: 6, Low: 7, Dropped: moment{8, 9}}).encode(),
			"02" + "0000000000000001" + "0000000000000002" + "0000000000000003" + "0000000000000004" + "0000000000000005" +
				"0000000000000006" + "0000000000000007" + "0000000000000008" + "0000000000000009"},
		{"moment", momentOf(at, 1).key(), "80064bf5a1dfa600" + "0000000000000001"},
		{"moment before 1970", momentOf(time.UnixMicro(-1), 1).key(), "7fffffffffffffff" + "0000000000000001"},
	} {
		if got := hex.EncodeToString(test.got); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestMoments(t *testing.T) {
	times := []time.Time{{}, time.UnixMicro(-1), time.UnixMicro(0), time.UnixMicro(1), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)}
	var before moment
	for i, at := range times {
		for seq := range uint64(3) {
			m := momentOf(at, seq*math.MaxUint32)
			if !m.time().Equal(at) {
				t.Errorf("%s becomes %s", at, m.time())
			}
			again, err := decodeMoment(m.key())
			if err != nil || again != m {
				t.Errorf("read again: %v, %v", again, err)
			}
			if i+int(seq) > 0 && (before.compare(m) != -1 || m.compare(before) != 1 || bytes.Compare(before.key(), m.key()) != -1) {
				t.Errorf("%v is not before %v", before, m)
			}
			before = m
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(&inbox.Message{ID: "id", Key: "key", Subject: "subject", Received: time.Unix(1, 0), Request: []byte("request")}))
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := decodeRecord(encodeRecord(&inbox.Message{
			ID: string(r.id), Key: string(r.key), Subject: string(r.subject), Received: r.received, Request: r.request,
		}))
		if err != nil || !bytes.Equal(again.id, r.id) || !bytes.Equal(again.key, r.key) || !bytes.Equal(again.subject, r.subject) || !bytes.Equal(again.request, r.request) ||
			!again.received.Equal(r.received) {
			t.Errorf("read and written again: %+v, was %+v (%v)", again, r, err)
		}
		short, err := decodeRecord(stub(b, r))
		if err != nil || !short.dropped || len(short.request) != 0 || !bytes.Equal(short.id, r.id) || !bytes.Equal(short.key, r.key) {
			t.Errorf("without its request: %+v (%v)", short, err)
		}
	})
}

func FuzzProgress(f *testing.F) {
	f.Add(progress{attempts: 3, when: time.Unix(1, 0), answer: inbox.Answer{Status: 500, Body: "body", Error: "error"}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeProgress(b)
		if err != nil {
			return
		}
		again, err := decodeProgress(p.encode())
		if err != nil || again.attempts != p.attempts || !again.when.Equal(p.when) || again.answer != p.answer {
			t.Errorf("read and written again: %+v, was %+v (%v)", again, p, err)
		}
	})
}

func FuzzCounters(f *testing.F) {
	f.Add((&counters{Bytes: 1, Last: 2}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCounters(b)
		if err != nil {
			return
		}
		if again := c.encode(); !bytes.Equal(again, b) {
			t.Errorf("read and written again: %x, was %x", again, b)
		}
	})
}
