package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/layerdumps/synth"
)

func newSynth(e *env) *cobra.Command {
	var profile, out string
	opt := synth.Options{}
	var about strings.Builder
	var names []string
	for _, p := range synth.Profiles() {
		names = append(names, p.Name)
		fmt.Fprintf(&about, "  %-9s %s\n", p.Name, p.Summary)
	}
	cmd := &cobra.Command{
		Use:   "synth -o FILE",
		Short: "Make a dump of synthetic activations",
		Long: `Writes layers of a documented random distribution with a seed: channel biases in
Q and K shared by all tokens, biased V channels, rows with a few large or many
small probabilities. The profiles:

` + about.String() + `
The file says that it is synthetic, and so does everything made from it.`,
		Example: `  sageacc synth --profile outlier -o outlier.safetensors
  sageacc synth --profile paper --layers 4 --tokens 2048 --seed 7 -o paper.safetensors
  sageacc synth --profile flat --tokens 131072 --queries 128 --layers 1 --heads 1 -o long.safetensors`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return fmt.Errorf("synth: no output file given (-o FILE)")
			}
			p, err := synth.Named(profile)
			if err != nil {
				return fmt.Errorf("--profile: %w", err)
			}
			if err := synth.Write(cmd.Context(), out, p, opt); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stderr, "%s: %d layers of %d heads x %d tokens x %d, %s\n", out, opt.Layers, opt.Heads, opt.Tokens, opt.HeadDim, synth.Describe(p, opt))
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&profile, "profile", "outlier", "distribution, `"+strings.Join(names, "|")+"`")
	fs.StringVarP(&out, "output", "o", "", "`FILE` to write (safetensors)")
	fs.IntVar(&opt.Layers, "layers", 2, "number of layers")
	fs.IntVar(&opt.Heads, "heads", 4, "heads of each layer")
	fs.IntVar(&opt.Tokens, "tokens", 1024, "tokens of each head")
	fs.IntVar(&opt.Queries, "queries", 0, "rows of Q, the first `N`, for layers with many keys that are not causal (default: all)")
	fs.IntVar(&opt.HeadDim, "head-dim", 64, "channels of each head, up to 128")
	fs.BoolVar(&opt.Causal, "causal", false, "causal layers")
	fs.Uint64Var(&opt.Seed, "seed", 1, "seed of the random numbers")
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
