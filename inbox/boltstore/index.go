package boltstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"
)

// index finds the newest message of an id. A B+tree keyed by ids would write a random page for nearly every message, and
// be the most expensive part of a Put. This is a small log-structured merge tree in one bucket of the same file instead:
// the newest entries are in memory only (they are read from the messages themselves when the file is opened), and when
// there are enough of them they are written, sorted, as a run. Runs of about one size are merged into a larger one, step
// by step in the commits. So a look-up asks a few runs that grow in number with the logarithm of the messages.
//
// A run is cut into chunks by the first bits of the digest, which are as good as random: a chunk is found without a
// search. An entry is a digest and a seq; the chunk is sorted by them. Entries of messages that are gone are dropped when
// runs are merged; until then the caller finds no such message.
//
// It belongs to the writer: no other goroutine uses it. After a failed commit it is loaded again.
type index struct {
	limits indexLimits
	recent map[digest]uint64 // the messages after indexed
	table  indexTable
	credit [256]int // how many entries may be merged, for each level
}

// indexLimits are constants, but for the tests.
type indexLimits struct {
	recent int // entries in memory before they are written
	chunk  int // entries a chunk, about
	fanout int // runs of one level before they are merged
}

var defaultIndexLimits = indexLimits{recent: 4096, chunk: 512, fanout: 4}

// indexTable is what stands in the file about the runs.
type indexTable struct {
	next uint32     // the number of the next run
	runs []indexRun // oldest first; no two that are not gone have a seq in common, but for a merge and its sources
}

// indexRun is one run.
type indexRun struct {
	number uint32
	level  uint8
	bits   uint8 // it has 1<<bits chunks
	state  runState
	done   uint32 // of a merge: chunks that are written
}

type runState uint8

const (
	live    runState = iota
	source           // it is being merged, and still asked
	merging          // it is being written, from the sources of the level below; not asked yet
	gone             // it was merged into another; its chunks are being deleted
)

const entrySize = 16 + 8

// tableKey sorts before every chunk's key, whose run number is at least 1.
var tableKey = []byte{0}

func chunkKey(run, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(make([]byte, 0, 8), run), chunk)
}

// chunkOf is where the digest stands in a run.
func (r indexRun) chunkOf(d digest) uint32 {
	return uint32(uint64(binary.BigEndian.Uint32(d[:])) >> (32 - r.bits))
}

func (t *indexTable) encode() []byte {
	b := make([]byte, 0, tableHead+len(t.runs)*runSize)
	b = binary.BigEndian.AppendUint32(append(b, recordVersion), t.next)
	for _, r := range t.runs {
		b = append(binary.BigEndian.AppendUint32(b, r.number), r.level, r.bits, byte(r.state))
		b = binary.BigEndian.AppendUint32(b, r.done)
	}
	return b
}

const (
	tableHead = 1 + 4
	runSize   = 4 + 3 + 4
)

func decodeTable(b []byte) (t indexTable, err error) {
	if len(b) < tableHead || b[0] != recordVersion || (len(b)-tableHead)%runSize != 0 {
		return t, errDamaged
	}
	t.next = binary.BigEndian.Uint32(b[1:])
	for b = b[tableHead:]; len(b) > 0; b = b[runSize:] {
		r := indexRun{number: binary.BigEndian.Uint32(b), level: b[4], bits: b[5], state: runState(b[6]), done: binary.BigEndian.Uint32(b[7:])}
		if r.bits > 31 || r.state > gone || r.done > 1<<r.bits {
			return t, errDamaged
		}
		t.runs = append(t.runs, r)
	}
	return t, nil
}

// load reads the table; the caller adds the entries after the last that was written.
func (x *index) load(b *bbolt.Bucket) (err error) {
	x.recent, x.table, x.credit = make(map[digest]uint64), indexTable{next: 1}, [256]int{}
	if raw := b.Get(tableKey); raw != nil {
		x.table, err = decodeTable(raw)
	}
	return err
}

// add takes a message in. Its seq is higher than every one before.
func (x *index) add(d digest, seq uint64) { x.recent[d] = seq }

// find returns the newest message of the digest, 0 if there is none.
func (x *index) find(b *bbolt.Bucket, d digest) uint64 {
	if seq, ok := x.recent[d]; ok {
		return seq
	}
	for i := len(x.table.runs) - 1; i >= 0; i-- {
		run := x.table.runs[i]
		if run.state == merging || run.state == gone {
			continue
		}
		if seq := findIn(b.Get(chunkKey(run.number, run.chunkOf(d))), d); seq != 0 {
			return seq
		}
	}
	return 0
}

// findIn looks a digest up in a chunk.
func findIn(chunk []byte, d digest) uint64 {
	at, found := searchChunk(chunk, d)
	if !found {
		return 0
	}
	return binary.BigEndian.Uint64(chunk[at*entrySize+16:])
}

// searchChunk finds the first entry that is not less than the digest.
func searchChunk(chunk []byte, d digest) (at int, found bool) {
	low, high := 0, len(chunk)/entrySize
	for low < high {
		middle := int(uint(low+high) >> 1)
		if bytes.Compare(chunk[middle*entrySize:middle*entrySize+16], d[:]) < 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < len(chunk)/entrySize && bytes.Equal(chunk[low*entrySize:low*entrySize+16], d[:])
}

// step does what is due after so many messages were added: a bounded part, in proportion to them. dropped says that a
// message is no longer in the store for sure. It reports whether `recent` was written, so that the caller remembers up to
// which message.
func (x *index) step(b *bbolt.Bucket, added int, dropped func(seq uint64) bool) (flushed bool, err error) {
	if len(x.recent) >= x.limits.recent {
		if err := x.flush(b); err != nil {
			return false, err
		}
		flushed = true
	}
	changed := x.plan() || flushed
	merged, err := x.merge(b, added, dropped)
	if err != nil {
		return flushed, err
	}
	swept, err := x.sweep(b, max(16*added/x.limits.chunk, 4))
	if err != nil || !changed && !merged && !swept {
		return flushed, err
	}
	return flushed, b.Put(tableKey, x.table.encode())
}

// bitsFor says into how many chunks so many entries are cut.
func (x *index) bitsFor(entries int) (bits uint8) {
	for bits < 31 && entries>>bits > x.limits.chunk {
		bits++
	}
	return bits
}

// flush writes the entries in memory as a run.
func (x *index) flush(b *bbolt.Bucket) error {
	entries := make([]entry, 0, len(x.recent))
	for d, seq := range x.recent {
		entries = append(entries, entry{d, seq})
	}
	slices.SortFunc(entries, entry.compare)
	run := indexRun{number: x.table.next, bits: x.bitsFor(len(entries))}
	x.table.next++
	for len(entries) > 0 {
		chunk := run.chunkOf(entries[0].digest)
		n := 1
		for n < len(entries) && run.chunkOf(entries[n].digest) == chunk {
			n++
		}
		if err := b.Put(chunkKey(run.number, chunk), encodeChunk(entries[:n])); err != nil {
			return err
		}
		entries = entries[n:]
	}
	x.table.runs = append(x.table.runs, run)
	x.recent = make(map[digest]uint64, x.limits.recent)
	return nil
}

type entry struct {
	digest digest
	seq    uint64
}

// compare sorts by digest, the newest first.
func (e entry) compare(other entry) int {
	if c := bytes.Compare(e.digest[:], other.digest[:]); c != 0 {
		return c
	}
	return cmp.Compare(other.seq, e.seq)
}

func encodeChunk(entries []entry) []byte {
	b := make([]byte, 0, len(entries)*entrySize)
	for _, e := range entries {
		b = append(b, e.digest[:]...)
		b = binary.BigEndian.AppendUint64(b, e.seq)
	}
	return b
}

// plan begins the merges that are due: of the oldest runs of every level that has enough, one merge a level.
func (x *index) plan() (changed bool) {
	t := &x.table
	var levels [256]struct {
		busy bool
		live []int
	}
	for i, run := range t.runs {
		level := &levels[run.level]
		switch run.state {
		case live:
			level.live = append(level.live, i)
		case source:
			level.busy = true
		}
	}
	for number := range levels {
		level := levels[number]
		if level.busy || len(level.live) < x.limits.fanout {
			continue
		}
		into := indexRun{number: t.next, level: uint8(min(number+1, 255)), state: merging}
		sources := level.live[:x.limits.fanout]
		for _, i := range sources {
			t.runs[i].state = source
			into.bits = max(into.bits, t.runs[i].bits)
		}
		for n := 1; n < x.limits.fanout; n *= 2 {
			into.bits = min(into.bits+1, 31)
		}
		t.next++
		t.runs = slices.Insert(t.runs, sources[len(sources)-1]+1, into)
		x.plan() // the places have changed
		return true
	}
	return false
}

// merge goes on with every merge under way. A merge must be done before as many messages more are put as it has, when
// the next one of its level is due: two entries for each message put are enough, and one commit is never held up.
func (x *index) merge(b *bbolt.Bucket, added int, dropped func(seq uint64) bool) (changed bool, err error) {
	for i := 0; i < len(x.table.runs); i++ {
		level := x.table.runs[i].level
		if x.table.runs[i].state != merging {
			continue
		}
		for x.credit[level] += 2 * added; x.credit[level] > 0 && x.table.runs[i].state == merging; changed = true {
			read, err := x.mergeChunk(b, &x.table.runs[i], dropped)
			if err != nil {
				return changed, err
			}
			x.credit[level] -= max(read, x.limits.chunk/8)
		}
	}
	return changed, nil
}

// mergeChunk writes the next chunk of a merge, and ends the merge with the last one. It returns how many entries it has
// read.
func (x *index) mergeChunk(b *bbolt.Bucket, into *indexRun, dropped func(seq uint64) bool) (int, error) {
	var entries []entry
	for _, run := range x.table.runs {
		if run.state != source || run.level != into.level-1 {
			continue
		}
		// This chunk's digests are a part of one chunk of each source, which has no more chunks than this run has.
		chunk := b.Get(chunkKey(run.number, into.done>>(into.bits-run.bits)))
		var first digest
		binary.BigEndian.PutUint32(first[:], uint32(uint64(into.done)<<(32-into.bits)))
		for at, _ := searchChunk(chunk, first); (at+1)*entrySize <= len(chunk); at++ {
			e := entry{digest(chunk[at*entrySize:]), binary.BigEndian.Uint64(chunk[at*entrySize+16:])}
			if into.chunkOf(e.digest) != into.done {
				break
			}
			entries = append(entries, e)
		}
	}
	read := len(entries)
	slices.SortFunc(entries, entry.compare)
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.digest == b.digest })
	entries = slices.DeleteFunc(entries, func(e entry) bool { return dropped(e.seq) })
	if len(entries) > 0 {
		if err := b.Put(chunkKey(into.number, into.done), encodeChunk(entries)); err != nil {
			return 0, err
		}
	}
	if into.done++; into.done == 1<<into.bits {
		into.state = live
		for i := range x.table.runs {
			if run := &x.table.runs[i]; run.state == source && run.level == into.level-1 {
				run.state = gone
			}
		}
	}
	return read, nil
}

// sweep deletes some chunks of runs that were merged.
func (x *index) sweep(b *bbolt.Bucket, chunks int) (changed bool, err error) {
	t := &x.table
	for chunks > 0 {
		at := slices.IndexFunc(t.runs, func(r indexRun) bool { return r.state == gone })
		if at < 0 {
			break
		}
		number := t.runs[at].number
		c := b.Cursor()
		var keys [][]byte
		for k, _ := c.Seek(chunkKey(number, 0)); len(k) == 8 && binary.BigEndian.Uint32(k) == number; k, _ = c.Next() {
			if len(keys) == chunks {
				break
			}
			keys = append(keys, bytes.Clone(k))
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return changed, err
			}
		}
		if chunks -= len(keys); chunks > 0 { // there was no other
			t.runs, changed = slices.Delete(t.runs, at, at+1), true
		}
	}
	return changed, nil
}
