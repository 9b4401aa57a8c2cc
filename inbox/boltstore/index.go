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
// there are enough of them they are written, sorted, as a run. Runs of about one size are merged into a larger one, a
// bounded step in each commit. So a look-up asks a few runs that grow in number with the logarithm of the messages.
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
	next  uint32     // the number of the next run
	runs  []indexRun // oldest first; no two have a seq in common
	merge indexMerge
}

// indexRun is one run.
type indexRun struct {
	number uint32
	level  uint8
	bits   uint8 // it has 1<<bits chunks
	gone   bool  // merged into another; its chunks are being deleted
}

// indexMerge is a merge under way: of the runs first…first+count-1 of the table into the run `into`. Count 0: none.
type indexMerge struct {
	first, count int
	into         indexRun
	done         uint32 // chunks of it that are written
}

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
	b := []byte{recordVersion}
	b = binary.BigEndian.AppendUint32(b, t.next)
	b = append(b, byte(t.merge.first), byte(t.merge.count))
	b = t.merge.into.append(b)
	b = binary.BigEndian.AppendUint32(b, t.merge.done)
	for _, run := range t.runs {
		b = run.append(b)
	}
	return b
}

const runSize = 4 + 3

func (r indexRun) append(b []byte) []byte {
	gone := byte(0)
	if r.gone {
		gone = 1
	}
	return append(binary.BigEndian.AppendUint32(b, r.number), r.level, r.bits, gone)
}

func decodeRun(b []byte) (indexRun, error) {
	r := indexRun{number: binary.BigEndian.Uint32(b), level: b[4], bits: b[5], gone: b[6] == 1}
	if r.bits > 31 || b[6] > 1 {
		return r, errDamaged
	}
	return r, nil
}

func decodeTable(b []byte) (t indexTable, err error) {
	const head = 1 + 4 + 2 + runSize + 4
	if len(b) < head || b[0] != recordVersion || (len(b)-head)%runSize != 0 {
		return t, errDamaged
	}
	t.next = binary.BigEndian.Uint32(b[1:])
	t.merge.first, t.merge.count = int(b[5]), int(b[6])
	if t.merge.into, err = decodeRun(b[7:]); err != nil {
		return t, err
	}
	t.merge.done = binary.BigEndian.Uint32(b[7+runSize:])
	for b = b[head:]; len(b) > 0; b = b[runSize:] {
		run, err := decodeRun(b)
		if err != nil {
			return t, err
		}
		t.runs = append(t.runs, run)
	}
	if t.merge.first+t.merge.count > len(t.runs) || len(t.runs) > 255 {
		return t, errDamaged
	}
	return t, nil
}

// load reads the table; the caller adds the entries after the last that was written.
func (x *index) load(b *bbolt.Bucket) (err error) {
	x.recent, x.table = make(map[digest]uint64), indexTable{next: 1}
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
		if run.gone {
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

// step does a bounded part of what is to be done: at most about `entries` entries are written, or as many as are in memory.
// gone says that a message is no longer in the store for sure. It reports whether `recent` was written, so that the
// caller remembers up to which message.
func (x *index) step(b *bbolt.Bucket, entries int, gone func(seq uint64) bool) (flushed bool, err error) {
	changed := false
	if len(x.recent) >= x.limits.recent && len(x.table.runs) < 250 {
		if err := x.flush(b); err != nil {
			return false, err
		}
		flushed, changed = true, true
	}
	x.plan()
	for written := 0; x.table.merge.count > 0 && written < max(entries, 1); {
		n, err := x.mergeChunk(b, gone)
		if err != nil {
			return flushed, err
		}
		written, changed = written+max(n, x.limits.chunk/8), true
	}
	swept, err := x.sweep(b, max(entries/x.limits.chunk, 4))
	if err != nil || !changed && !swept {
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

func (x *index) newRun(level, bits uint8) indexRun {
	run := indexRun{number: x.table.next, level: level, bits: bits}
	x.table.next++
	return run
}

// flush writes the entries in memory as a run.
func (x *index) flush(b *bbolt.Bucket) error {
	entries := make([]entry, 0, len(x.recent))
	for d, seq := range x.recent {
		entries = append(entries, entry{d, seq})
	}
	slices.SortFunc(entries, entry.compare)
	run := x.newRun(0, x.bitsFor(len(entries)))
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

// plan begins a merge, if none is under way and one is due: the oldest runs of the lowest level that has enough. The runs
// of a level stand together, the higher levels before it.
func (x *index) plan() {
	t := &x.table
	if t.merge.count > 0 || slices.ContainsFunc(t.runs, func(r indexRun) bool { return r.gone }) {
		return
	}
	for end := len(t.runs); end > 0; {
		first := end
		for first > 0 && t.runs[first-1].level == t.runs[end-1].level {
			first--
		}
		if end-first >= x.limits.fanout {
			bits, level := uint8(0), t.runs[first].level
			for _, run := range t.runs[first : first+x.limits.fanout] {
				bits = max(bits, run.bits)
			}
			for n := 1; n < x.limits.fanout; n *= 2 {
				bits++
			}
			t.merge = indexMerge{first: first, count: x.limits.fanout, into: x.newRun(min(level+1, 255), min(bits, 31))}
			return
		}
		end = first
	}
}

// mergeChunk writes the next chunk of the merge under way, and ends the merge with the last one. It returns how many
// entries it has read.
func (x *index) mergeChunk(b *bbolt.Bucket, gone func(seq uint64) bool) (int, error) {
	t := &x.table
	m := &t.merge
	var entries []entry
	for _, run := range t.runs[m.first : m.first+m.count] {
		// This chunk's digests are a part of one chunk of each source, which has no more chunks than this run has.
		from := m.done >> (m.into.bits - run.bits)
		chunk := b.Get(chunkKey(run.number, from))
		at := 0
		if m.into.bits > run.bits {
			var first digest
			binary.BigEndian.PutUint32(first[:], uint32(uint64(m.done)<<(32-m.into.bits)))
			at, _ = searchChunk(chunk, first)
		}
		for ; (at+1)*entrySize <= len(chunk); at++ {
			e := entry{digest(chunk[at*entrySize:]), binary.BigEndian.Uint64(chunk[at*entrySize+16:])}
			if m.into.chunkOf(e.digest) != m.done {
				break
			}
			entries = append(entries, e)
		}
	}
	read := len(entries)
	slices.SortFunc(entries, entry.compare)
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.digest == b.digest })
	entries = slices.DeleteFunc(entries, func(e entry) bool { return gone(e.seq) })
	if len(entries) > 0 {
		if err := b.Put(chunkKey(m.into.number, m.done), encodeChunk(entries)); err != nil {
			return 0, err
		}
	}
	if m.done++; m.done < 1<<m.into.bits {
		return read, nil
	}
	for i := range t.runs[m.first : m.first+m.count] {
		t.runs[m.first+i].gone = true
	}
	t.runs = slices.Insert(t.runs, m.first+m.count, m.into)
	t.merge = indexMerge{}
	return read, nil
}

// sweep deletes some chunks of runs that were merged.
func (x *index) sweep(b *bbolt.Bucket, chunks int) (changed bool, err error) {
	t := &x.table
	if t.merge.count > 0 {
		return false, nil // the places of its sources in the table must not change
	}
	for at := slices.IndexFunc(t.runs, func(r indexRun) bool { return r.gone }); at >= 0; {
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
		if chunks -= len(keys); chunks <= 0 {
			return changed, nil
		}
		t.runs, changed = slices.Delete(t.runs, at, at+1), true
		at = slices.IndexFunc(t.runs, func(r indexRun) bool { return r.gone })
	}
	return changed, nil
}
