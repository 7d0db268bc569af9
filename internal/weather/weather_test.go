package weather

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestDamage: the same numbers give the same damage, of whatever, and the original
// stays as it was.
func TestDamage(t *testing.T) {
	seed := []byte(`{"l.q":{"dtype":"F16","shape":[1,2,3,4],"data_offsets":[0,48]}}` + "\x00\x01\x02")
	kept := bytes.Clone(seed)
	changed := map[string]bool{}
	for _, data := range [][]byte{seed, {}, {1}, bytes.Repeat(seed, 300)} {
		for i := range uint64(500) {
			a := Damage(rand.New(rand.NewPCG(1, i)), data, seed)
			b := Damage(rand.New(rand.NewPCG(1, i)), data, seed)
			if !bytes.Equal(a, b) {
				t.Fatalf("damage %d is not the same again", i)
			}
			if len(data) == len(seed) {
				changed[string(a)] = true
			}
		}
	}
	if !bytes.Equal(seed, kept) {
		t.Error("the original was changed")
	}
	if len(changed) < 400 {
		t.Errorf("500 times damage gave %d files", len(changed))
	}
}
