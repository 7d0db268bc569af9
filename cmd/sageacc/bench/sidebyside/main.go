// Command sidebyside measures the emulator, the reference and gonum against PyTorch's
// scaled_dot_product_attention on the same cores, in turns, so that whatever
// else slows the machine down slows all of them. It prints the median of the
// rounds' ratios.
//
//	go run ./cmd/sageacc/bench/sidebyside -python /path/to/venv/bin/python -threads 2
//
// The Python needs torch (pip install torch).
package main

import (
	"bufio"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"github.com/sageacc/sageacc/cmd/sageacc/bench"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/strictmath"
	"github.com/sageacc/sageacc/reference"
)

//go:embed sdpa.py
var script string

func main() {
	log.SetFlags(0)
	python := flag.String("python", "python3", "Python with torch")
	threads := flag.Int("threads", runtime.NumCPU(), "threads of each")
	rounds := flag.Int("rounds", 9, "rounds")
	heads := flag.Int("heads", 4, "heads of a round")
	tokens := flag.Int("tokens", 4096, "queries and keys")
	dim := flag.Int("head-dim", 128, "head dimension")
	kernels := flag.String("kernels", "", "kernels, by commas; empty for those that run in strips whole")
	flag.Parse()
	var names []string
	if *kernels != "" {
		names = strings.Split(*kernels, ",")
	}
	if err := run(names, *python, *threads, *rounds, *heads, *tokens, *dim); err != nil {
		log.Fatal(err)
	}
}

func run(names []string, python string, threads, rounds, heads, tokens, dim int) error {
	runtime.GOMAXPROCS(threads) // which is how gonum is told
	list, err := contenders(names, threads, heads, tokens, dim)
	if err != nil {
		return err
	}
	cmd := exec.Command(python, "-c", script, strconv.Itoa(threads), strconv.Itoa(heads), strconv.Itoa(tokens), strconv.Itoa(dim))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(pipe)
	torch := func() (float64, error) {
		if _, err := io.WriteString(in, "\n"); err != nil {
			return 0, err
		}
		if !lines.Scan() {
			return 0, fmt.Errorf("python ended: %v", lines.Err())
		}
		return strconv.ParseFloat(strings.TrimSpace(lines.Text()), 64)
	}
	ratios := make([][]float64, len(list))
	times := make([][]float64, len(list)+1)
	for round := range rounds + 1 {
		for i, c := range list {
			base, err := torch()
			if err != nil {
				return err
			}
			start := time.Now()
			if err := c.run(); err != nil {
				return err
			}
			t := time.Since(start).Seconds()
			after, err := torch()
			if err != nil {
				return err
			}
			if round > 0 { // the first warms up
				base = (base + after) / 2
				ratios[i] = append(ratios[i], t/base)
				times[i] = append(times[i], t)
				times[len(list)] = append(times[len(list)], base)
			}
		}
	}
	if err := in.Close(); err != nil {
		return err
	}
	macs := 2 * float64(heads) * float64(tokens) * float64(tokens) * float64(dim)
	fmt.Printf("%d heads, %d tokens, head_dim %d, %d threads, %d rounds\n", heads, tokens, dim, threads, rounds)
	fmt.Printf("%-16s %9s %8s   %s\n", "", "s/head", "GMAC/s", "time / torch (median, range)")
	for i, c := range list {
		m := median(times[i])
		slices.Sort(ratios[i])
		fmt.Printf("%-16s %9.4f %8.1f   %.2f  %.2f-%.2f\n", c.name, m/float64(heads), macs/m/1e9, median(ratios[i]), ratios[i][0], ratios[i][len(ratios[i])-1])
	}
	m := median(times[len(list)])
	fmt.Printf("%-16s %9.4f %8.1f\n", "torch sdpa", m/float64(heads), macs/m/1e9)
	return cmd.Wait()
}

// contender is what is measured against PyTorch.
type contender struct {
	name string
	run  func() error
}

// contenders returns the kernels, those that run in strips whole if none is named, the reference and gonum.
func contenders(names []string, threads, heads, tokens, dim int) ([]contender, error) {
	h := bench.NewHead(tokens, dim, false)
	ctx := context.Background()
	var list []contender
	for _, name := range names {
		if _, err := program.Preset(name); err != nil {
			return nil, err
		}
	}
	for _, p := range program.Presets() {
		if len(names) > 0 && !slices.Contains(names, p.Name) {
			continue
		}
		k, err := emulate.New(p)
		if err == nil {
			k, err = k.ForCase(format.FP16, program.Case{HeadDim: dim, Keys: tokens})
		}
		if err != nil {
			return nil, err
		}
		if len(names) == 0 && k.Portable() != "" {
			continue // slow, and no news
		}
		list = append(list, contender{p.Name, func() error { return h.Emulate(ctx, k, heads, threads) }})
	}
	return append(list,
		contender{"reference fp32", func() error { return h.Reference(ctx, reference.FP32, heads, threads) }},
		contender{"gonum blas32", func() error {
			for range heads {
				gonumAttention(h)
			}
			return nil
		}},
	), nil
}

// gonumAttention is plain attention in FP32: two products by gonum, which has its own
// goroutines, and a softmax between them, a block of queries at a time.
func gonumAttention(h *bench.Head) {
	const rows = 256
	n, d := h.Tokens, h.Dim
	matrix := func(x []float32, rows, cols int) blas32.General {
		return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: x}
	}
	k, v := matrix(h.K, n, d), matrix(h.V, n, d)
	scores, out := make([]float32, rows*n), make([]float32, rows*d)
	scale := float32(1 / math.Sqrt(float64(d)))
	for lo := 0; lo < n; lo += rows {
		m := min(rows, n-lo)
		s := matrix(scores[:m*n], m, n)
		blas32.Gemm(blas.NoTrans, blas.Trans, scale, matrix(h.Q[lo*d:(lo+m)*d], m, d), k, 0, s)
		var wg sync.WaitGroup
		for r := range m {
			wg.Go(func() {
				row := s.Data[r*n : (r+1)*n]
				top, sum := slices.Max(row), float32(0)
				for i, x := range row {
					row[i] = float32(strictmath.Exp(float64(x - top)))
					sum += row[i]
				}
				for i := range row {
					row[i] /= sum
				}
			})
		}
		wg.Wait()
		blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, s, v, 0, matrix(out[:m*d], m, d))
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
