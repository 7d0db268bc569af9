// Check compares package mufu with a GPU, result by result.
//
//	check [-probe PATH] [-jobs N] FUNCTION[=COUNT] ...
//
// FUNCTION is ex2, rcp, lg2, divfull or divapprox. COUNT is how many inputs to
// compare, 2^32 where it is left out: for the first three that is every
// float32; a division takes as many pairs from the fixed sequence that
// kernels/probes/mufu.cu describes. Two NaNs are equal whatever their bits;
// +0 and -0 differ. The exit status is 1 where any result differs.
//
// The GPU's results come from that probe, which check starts, N at a time, on
// its share of the inputs each. To repeat the check on a machine with a GPU:
//
//	nvcc -O3 -gencode arch=compute_90a,code=sm_90a -o mufu kernels/probes/mufu.cu
//	go run ./emulate/mufu/check -probe ./mufu ex2 rcp lg2 divfull divapprox
//
// Where that machine has no Go, build the program elsewhere first:
//
//	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build ./emulate/mufu/check
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sageacc/sageacc/emulate/mufu"
)

// functions gives what each function returns for input i, and that input for
// a message.
var functions = map[string]struct {
	result func(i uint64) float32
	input  func(i uint64) string
}{
	"ex2":       {unary(mufu.Ex2), formatUnary},
	"rcp":       {unary(mufu.Rcp), formatUnary},
	"lg2":       {unary(mufu.Lg2), formatUnary},
	"divfull":   {quotient(mufu.DivFull), formatPair},
	"divapprox": {quotient(mufu.DivApprox), formatPair},
}

func unary(f func(float32) float32) func(uint64) float32 {
	return func(i uint64) float32 { return f(math.Float32frombits(uint32(i))) }
}

func formatUnary(i uint64) string { return fmt.Sprintf("%#08x", uint32(i)) }

func quotient(f func(a, b float32) float32) func(uint64) float32 {
	return func(i uint64) float32 {
		a, b := pair(i)
		return f(math.Float32frombits(a), math.Float32frombits(b))
	}
}

func formatPair(i uint64) string {
	a, b := pair(i)
	return fmt.Sprintf("%#08x / %#08x", a, b)
}

// pair is the i-th pair of the probe's sequence.
func pair(i uint64) (a, b uint32) {
	z := i * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	a, b = uint32(z), uint32(z>>32)
	if i%8 == 0 {
		a = b - 126<<23 + a%16 - 8
	}
	return a, b
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("check: ")
	probe := flag.String("probe", "./mufu", "`path` of the compiled kernels/probes/mufu.cu")
	jobs := flag.Int("jobs", runtime.NumCPU(), "how many probes to run at a time")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: check [-probe PATH] [-jobs N] FUNCTION[=COUNT] ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || *jobs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	failed := false
	for _, arg := range flag.Args() {
		name, countArg, limited := strings.Cut(arg, "=")
		if _, ok := functions[name]; !ok {
			log.Fatalf("unknown function %q", name)
		}
		count := uint64(1) << 32
		if limited {
			var err error
			if count, err = strconv.ParseUint(countArg, 0, 64); err != nil {
				log.Fatalf("%s: %v", arg, err)
			}
		}
		start := time.Now()
		differ, err := compareAll(*probe, name, count, *jobs)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		fmt.Printf("%s: %d of %d differ (%.1f s)\n", name, differ, count, time.Since(start).Seconds())
		failed = failed || differ != 0
	}
	if failed {
		os.Exit(1)
	}
}

// compareAll compares the first count inputs of a function, in jobs shares, and
// returns how many results differ.
func compareAll(probe, name string, count uint64, jobs int) (differ uint64, err error) {
	var wg sync.WaitGroup
	differs := make([]uint64, jobs)
	errs := make([]error, jobs)
	for j := range jobs {
		lo, hi := share(count, j, jobs), share(count, j+1, jobs)
		wg.Go(func() { differs[j], errs[j] = compare(probe, name, lo, hi-lo) })
	}
	wg.Wait()
	for j := range jobs {
		if errs[j] != nil {
			return 0, errs[j]
		}
		differ += differs[j]
	}
	return differ, nil
}

// share returns where the j-th of jobs equal shares of count inputs starts.
func share(count uint64, j, jobs int) uint64 {
	n := uint64(jobs)
	return count/n*uint64(j) + min(count%n, uint64(j))
}

// compare compares count inputs from start on and returns how many results
// differ. It prints the first few of them.
func compare(probe, name string, start, count uint64) (differ uint64, err error) {
	cmd := exec.Command(probe, name, strconv.FormatUint(start, 10), strconv.FormatUint(count, 10))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	f := functions[name]
	in := bufio.NewReaderSize(stdout, 1<<20)
	buf := make([]byte, 1<<18)
	for i := uint64(0); i < count; {
		n := min(count-i, uint64(len(buf)/4))
		if _, err := io.ReadFull(in, buf[:4*n]); err != nil {
			return 0, fmt.Errorf("%s stopped early: %w", probe, err)
		}
		for k := range n {
			want := binary.LittleEndian.Uint32(buf[4*k:])
			got := math.Float32bits(f.result(start + i + k))
			if got == want || isNaN(got) && isNaN(want) {
				continue
			}
			if differ++; differ <= 4 {
				fmt.Printf("%s(%s): GPU %#08x, mufu %#08x\n", name, f.input(start+i+k), want, got)
			}
		}
		i += n
	}
	return differ, cmd.Wait()
}

func isNaN(b uint32) bool { return b&0x7fffffff > 0x7f800000 }
