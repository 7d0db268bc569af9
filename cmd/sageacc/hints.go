package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sageacc/sageacc/internal/nearest"
)

// unknownCommand is the error of a command that there is none of, with what was likely
// meant.
func unknownCommand(root *cobra.Command, args []string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], root.CommandPath())
	if name, ok := nearest.Name(args[0], names); ok {
		return fmt.Errorf("%w: did you mean %s %s?", err, root.CommandPath(), name)
	}
	if st, statErr := os.Stat(args[0]); statErr == nil {
		command := "compare"
		if st.Mode().IsRegular() && isResult(args[0]) {
			command = "report"
		}
		return fmt.Errorf("%w: did you mean %s %s %s?", err, root.CommandPath(), command, args[0])
	}
	return fmt.Errorf("%w (see %s --help)", err, root.CommandPath())
}

// isResult reports whether a file is JSON, as results are.
func isResult(path string) bool {
	head, err := readUpTo(path, 1)
	return err == nil && string(head) == "{"
}

// nearestFlag adds what was likely meant to the error of a flag that there is none of.
func nearestFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if name, ok := nearest.Name(unknown.GetSpecifiedName(), names); ok {
		return fmt.Errorf("%w: did you mean --%s?", err, name)
	}
	return err
}
