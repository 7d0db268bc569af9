package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/sageacc/sageacc/internal/atomicfile"
	"github.com/sageacc/sageacc/internal/version"
)

func newMan(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write man pages",
		Long: `Writes a man page of each command into the folder DIR, sageacc.1 and
sageacc-compare.1 and so on, for those who package the program. The folder is made
where there is none; pages that are there are replaced.`,
		Example: `  sageacc man /usr/local/share/man/man1
  sageacc man man && man man/sageacc-compare.1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("man: want one folder, DIR, not %d (see sageacc man --help)", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o777); err != nil {
				return err
			}
			// A tree of commands of their own, whose texts are changed below.
			return writePages(newRoot(e), args[0])
		},
	}
}

// writePages writes the pages of a command and of those below it.
func writePages(c *cobra.Command, dir string) error {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			if err := writePages(sub, dir); err != nil {
				return err
			}
		}
	}
	c.InitDefaultHelpFlag()
	c.DisableAutoGenTag = true
	c.Long = markdown(c.Long)
	info := version.Get()
	h := &doc.GenManHeader{Section: "1", Source: "sageacc " + info.Version, Manual: "sageacc"}
	// The time of the commit, so that the same sources give the same pages.
	if t, err := time.Parse(time.RFC3339, info.Date); err == nil {
		h.Date = &t
	}
	var b bytes.Buffer
	if err := doc.GenMan(c, h, &b); err != nil {
		return fmt.Errorf("the man page of %s: %w", c.CommandPath(), err)
	}
	f, err := atomicfile.Create(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"))
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(b.Bytes()); err != nil {
		return err
	}
	return f.Commit()
}

var special = regexp.MustCompile("[\\\\`*_{}\\[\\]<>#|]")

// markdown makes Markdown, of which man pages are made, of a help text, which is plain.
// Lines that are indented stay as they are.
func markdown(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") || strings.HasPrefix(l, "\t") {
			lines[i] = "    " + strings.ReplaceAll(l, "\t", "  ") // code
			continue
		}
		lines[i] = special.ReplaceAllString(l, `\$0`)
	}
	return strings.Join(lines, "\n")
}
