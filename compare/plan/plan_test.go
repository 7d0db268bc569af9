package plan

import (
	"math"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/ranges"
)

func outline(heads, kvHeads, queries, keys int, causal bool) *compare.Outline {
	return &compare.Outline{
		Shape: compare.Shape{Batch: 1, Heads: heads, KVHeads: kvHeads, Queries: queries, Keys: keys, HeadDim: 128},
		End:   queries, ChunkRows: 256, Causal: causal,
	}
}

// TestRate: of measurements of a machine that takes so long for queries and for kv heads
// the rate is that machine's.
func TestRate(t *testing.T) {
	want := rate{1e-10, 3e-10}
	for _, o := range []*compare.Outline{
		outline(24, 24, 118_000, 118_000, false), outline(24, 24, 118_000, 118_000, true), outline(24, 8, 9000, 9000, true),
		outline(4, 1, 40_000, 40_000, false), outline(1, 1, 300, 300, false),
	} {
		calls := 0
		got, err := measureRate(o, 2, 10*time.Second, func(chunks ranges.Set) (time.Duration, error) {
			calls++
			if err := chunks.Check(o.Chunks()); err != nil || chunks == nil {
				t.Fatalf("chunks %v of %d", chunks, o.Chunks())
			}
			return time.Duration(want.seconds(o.Costs(chunks)) * 1e9), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		total, truth := got.seconds(o.Costs(o.All())), want.seconds(o.Costs(o.All()))
		if math.Abs(total/truth-1) > 0.05 || calls > 20 {
			t.Errorf("%+v: %g s after %d measurements, want %g", o.Shape, total, calls, truth)
		}
	}
}

func job(words ...string) *Job {
	return &Job{Command: append([]string{"sageacc", "compare"}, words...), Shards: 8, Jobs: 4, Seconds: 4000, Memory: 1 << 30, Image: "sageacc:1", Claim: "dumps"}
}

// TestSlurm: the script is one that bash reads, with the words as they were.
func TestSlurm(t *testing.T) {
	var b strings.Builder
	if err := Slurm(&b, job("it's a dump/", "--fail-if", "cos<0.99", "$HOME")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"#SBATCH --array=0-7\n", "#SBATCH --cpus-per-task=4\n", "#SBATCH --mem=1536M\n", "#SBATCH --time=2:13:20\n", "#SBATCH --requeue\n",
		`exec sageacc compare 'it'\''s a dump/' --fail-if 'cos<0.99' '$HOME' --shard array/8 --resume -o "part-$SLURM_ARRAY_TASK_ID"` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("without %q:\n%s", want, &b)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(bash, "-c", strings.Replace(b.String(), "exec sageacc", `exec printf '<%s>'`, 1))
	cmd.Env = []string{"SLURM_ARRAY_TASK_ID=5"}
	out, err := cmd.Output()
	if want := "<compare><it's a dump/><--fail-if><cos<0.99><$HOME><--shard><array/8><--resume><-o><part-5>"; err != nil || string(out) != want {
		t.Errorf("bash runs %s, %v; want %s", out, err, want)
	}
}

func TestKubernetes(t *testing.T) {
	var b strings.Builder
	if err := Kubernetes(&b, job(`it's "a" dump/`, "a: b", "$(HOME)")); err != nil {
		t.Fatal(err)
	}
	var m struct {
		Kind string
		Spec struct {
			CompletionMode       string `yaml:"completionMode"`
			Completions          int
			BackoffLimitPerIndex int `yaml:"backoffLimitPerIndex"`
			Template             struct {
				Spec struct {
					Containers []struct {
						Image     string
						Command   []string
						Resources struct{ Limits map[string]string }
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(b.String()), &m); err != nil {
		t.Fatal(err)
	}
	s := &m.Spec
	c := &s.Template.Spec.Containers[0]
	if m.Kind != "Job" || s.CompletionMode != "Indexed" || s.Completions != 8 || s.BackoffLimitPerIndex != 3 || c.Image != "sageacc:1" || c.Resources.Limits["memory"] != "1536Mi" {
		t.Errorf("%+v", m)
	}
	want := []string{"sageacc", "compare", `it's "a" dump/`, "a: b", "$$(HOME)", "--shard", "array/8", "--resume", "-o", "part-$(JOB_COMPLETION_INDEX)"}
	if !slices.Equal(c.Command, want) {
		t.Errorf("command %q, want %q", c.Command, want)
	}
}
