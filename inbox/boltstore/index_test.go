package boltstore

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// TestIndex compares the index with a map, through runs, merges, removals and reopenings.
func TestIndex(t *testing.T) {
	for _, limits := range []indexLimits{
		{recent: 1, chunk: 1, fanout: 2}, {recent: 3, chunk: 2, fanout: 2}, {recent: 16, chunk: 4, fanout: 3}, {recent: 64, chunk: 16, fanout: 4},
	} {
		t.Run(fmt.Sprint(limits), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, uint64(limits.recent)))
			db, err := bbolt.Open(filepath.Join(t.TempDir(), "index.db"), 0o600, &bbolt.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close() //nolint:errcheck // nothing of it is kept
			x := &index{limits: limits, recent: map[digest]uint64{}, table: indexTable{next: 1}}
			newest, stored := map[digest]uint64{}, map[uint64]digest{}
			last, indexed, floor := uint64(0), uint64(0), uint64(1)
			known := func() digest { return digestOf(fmt.Sprint(random.IntN(3000))) }
			most := 0
			for round := range 1500 {
				err := db.Update(func(tx *bbolt.Tx) error {
					b, err := tx.CreateBucketIfNotExists(bucketIndex)
					if err != nil {
						return err
					}
					if round%97 == 96 { // opened again: what was in memory is read from the messages
						if err := x.load(b); err != nil {
							return err
						}
						for seq := indexed + 1; seq <= last; seq++ {
							if d, ok := stored[seq]; ok {
								x.add(d, seq)
							}
						}
					}
					added := random.IntN(6)
					for range added {
						d := known()
						last++
						delete(stored, newest[d]) // the message before is gone, as one that was revived
						newest[d], stored[last] = last, d
						x.add(d, last)
					}
					if round%50 == 49 { // the oldest expire
						for ; floor < last*2/3; floor++ {
							if d, ok := stored[floor]; ok {
								delete(stored, floor)
								delete(newest, d)
							}
						}
					}
					flushed, err := x.step(b, added, func(seq uint64) bool { return seq < floor })
					if flushed {
						indexed = last
					}
					most = max(most, len(x.table.runs))
					for range 10 {
						d := known()
						got, want := x.find(b, d), newest[d]
						if got != want && stored[got] == d {
							t.Fatalf("round %d: found %d, want %d", round, got, want)
						}
						if want != 0 && got != want {
							t.Fatalf("round %d: found %d, want %d", round, got, want)
						}
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			err = db.View(func(tx *bbolt.Tx) error {
				b := tx.Bucket(bucketIndex)
				for d, want := range newest {
					if got := x.find(b, d); got != want {
						t.Errorf("found %d, want %d", got, want)
					}
				}
				// What is merged leaves nothing behind: every chunk belongs to a run of the table.
				runs := map[uint32]bool{}
				for _, run := range x.table.runs {
					runs[run.number] = true
				}
				entries := 0
				for k, v := range readAll(b) {
					if len(k) == 8 {
						if !runs[binary.BigEndian.Uint32([]byte(k))] {
							t.Errorf("chunk %x belongs to no run", k)
						}
						entries += len(v) / entrySize
					}
				}
				if limit := 3*len(stored) + 3000; entries > limit {
					t.Errorf("%d entries for %d messages", entries, len(stored))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if most < 4 || most > 60 {
				t.Errorf("%d runs at most, want some, but not many", most)
			}
			if x.table.next < 20 {
				t.Errorf("only %d runs were made", x.table.next)
			}
		})
	}
}

func readAll(b *bbolt.Bucket) map[string][]byte {
	all := map[string][]byte{}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		all[string(k)] = v
	}
	return all
}

// TestIndexSteps bounds what one commit writes, however large the merge.
func TestIndexSteps(t *testing.T) {
	limits := indexLimits{recent: 256, chunk: 16, fanout: 4}
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "index.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // nothing of it is kept
	x := &index{limits: limits, recent: map[digest]uint64{}, table: indexTable{next: 1}}
	most := 0
	for seq := uint64(1); seq <= 20_000; seq++ {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucketIndex)
			if err != nil {
				return err
			}
			x.add(digestOf(fmt.Sprint(seq)), seq)
			before := map[uint32]uint32{}
			for _, run := range x.table.runs {
				before[run.number] = run.done
			}
			flushed, err := x.step(b, 1, func(uint64) bool { return false })
			if flushed && len(x.recent) != 0 {
				t.Error("entries are left after they were written")
			}
			for _, run := range x.table.runs {
				if run.done-before[run.number] > 2 {
					t.Errorf("%d chunks of one run in one step", run.done-before[run.number])
				}
			}
			most = max(most, len(x.table.runs))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if most > 40 {
		t.Errorf("%d runs at most: merging does not keep up", most)
	}
	if top := x.table.runs[0].level; top < 2 {
		t.Errorf("the oldest run is of level %d: nothing large was merged", top)
	}
}

func FuzzIndexTable(f *testing.F) {
	t := indexTable{next: 7, runs: []indexRun{{number: 1, level: 2, bits: 3}, {number: 5, state: merging, bits: 4, done: 9}}}
	f.Add(t.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := decodeTable(b)
		if err != nil {
			return
		}
		if again := table.encode(); string(again) != string(b) {
			t.Errorf("read and written again: %x, was %x", again, b)
		}
	})
}
