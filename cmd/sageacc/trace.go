package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sageacc/sageacc/cmd/sageacc/render"
	"github.com/sageacc/sageacc/compare/trace"
	"github.com/sageacc/sageacc/layerdumps"
)

func newTrace(e *env) *cobra.Command {
	var (
		dump            dumpFlags
		kernel          kernelFlags
		layer           string
		at              trace.At
		channels, tiles []int
		format, out     string
	)
	cmd := &cobra.Command{
		Use:   "trace DUMP...",
		Short: "Follow one row of queries through the emulated kernel, tile by tile",
		Long: `Shows the intermediate values of one row of one head: after each tile of keys the
row maximum, the rescaling factor, the denominators, the tile's P~V and O, and at
the end the output beside the dump's own. A kernel that prints its own values can
be held against them, to find the first stage that differs. All numbers are exact:
they read back as the same FP32 value.

The table shows --channels of O, and with --tile every key of a tile: the integer
score, P~, its code and what the code stands for. JSON holds all of them.`,
		Example: `  sageacc trace dump.safetensors --layer layers.0.attn --head 1 --row 200
  sageacc trace dump.safetensors --layer layers.0.attn --row 200 --tile 1 --channels 0,63
  sageacc trace dump.safetensors --kernel sage2-8b-sm89 --arch sm_90 --row 7 --format json -o row.json`,
		Args: needArgs("dump"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			write, err := pick(format, map[string]func(io.Writer, *trace.Row) error{
				"table": func(w io.Writer, r *trace.Row) error { return render.TraceText(w, r, channels, tiles) },
				"json":  func(w io.Writer, r *trace.Row) error { return render.JSON(w, r) },
			})
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			for _, flag := range []string{"channels", "tile"} {
				if format == "json" && cmd.Flags().Changed(flag) {
					return fmt.Errorf("--%s is for --format table: JSON holds everything", flag)
				}
			}
			k, err := kernel.early(cmd)
			if err != nil {
				return err
			}
			d, err := dump.open(cmd, args)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			l, err := find(d, layer)
			if err != nil {
				return err
			}
			if k == nil {
				if k, err = kernel.late(cmd, &layerdumps.Dump{Layers: []layerdumps.Layer{*l}}); err != nil {
					return err
				}
			}
			w, err := e.open(out, d.Files)
			if err != nil {
				return err
			}
			defer w.abort()
			e.tellIgnored(d)
			e.tellChoice(&kernel)
			r, err := trace.Layer(cmd.Context(), k, l, at)
			if err == nil {
				err = l.Check()
			}
			if err != nil {
				return fmt.Errorf("%s: layer %s: %w", l.Source, l.Name, err)
			}
			if !cmd.Flags().Changed("channels") {
				channels = channels[:min(len(channels), r.Shape.HeadDim)]
			}
			for _, c := range channels {
				if c < 0 || c >= r.Shape.HeadDim {
					return fmt.Errorf("--channels is %d: the row's channels are 0 to %d", c, r.Shape.HeadDim-1)
				}
			}
			if err := haveTiles(r, tiles); err != nil {
				return err
			}
			if err := write(w, r); err != nil {
				return err
			}
			return w.commit()
		},
	}
	dump.addSelected(cmd, true)
	kernel.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&layer, "layer", "", "`NAME` of the layer (default: the only one)")
	fs.IntVar(&at.Batch, "batch", 0, "batch entry `B`")
	fs.IntVar(&at.Head, "head", 0, "query head `H`")
	fs.IntVar(&at.Row, "row", 0, "row `R` of queries")
	fs.IntSliceVar(&channels, "channels", []int{0, 1, 2, 3}, "channels `C,...` of O that the table shows")
	fs.IntSliceVar(&tiles, "tile", nil, "show every key of tile `T` in the table (repeatable)")
	fs.StringVar(&format, "format", "table", "output format, `table|json`")
	fs.StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	return cmd
}

// haveTiles reports a number that no tile of the row has.
func haveTiles(r *trace.Row, tiles []int) error {
	var have []int
	for i := range r.Tiles {
		have = append(have, r.Tiles[i].Index)
	}
	slices.Sort(have)
	for _, n := range tiles {
		switch {
		case slices.Contains(have, n):
		case have == nil:
			return fmt.Errorf("--tile is %d: the row's block runs no tile", n)
		case have[len(have)-1]-have[0] == len(have)-1:
			return fmt.Errorf("--tile is %d: the row's tiles are %d to %d", n, have[0], have[len(have)-1])
		default:
			return fmt.Errorf("--tile is %d: the row has %d of the tiles %d to %d, and not this one", n, len(have), have[0], have[len(have)-1])
		}
	}
	return nil
}

// find returns the layer of that name; no name stands for the only layer.
func find(d *layerdumps.Dump, name string) (*layerdumps.Layer, error) {
	if name == "" && len(d.Layers) == 1 {
		return &d.Layers[0], nil
	}
	var names []string
	for i := range d.Layers {
		if name != "" && d.Layers[i].Name == name {
			return &d.Layers[i], nil
		}
		names = append(names, d.Layers[i].Name)
	}
	const most = 8
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += ", ..."
	}
	if name == "" {
		return nil, fmt.Errorf("--layer is missing: the dump has %d layers, %s", len(names), list)
	}
	return nil, fmt.Errorf("--layer: no layer %q; the dump has %s", name, list)
}
