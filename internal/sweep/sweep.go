// Package sweep says how much of a sweep over combinations a test tries.
package sweep

import "os"

// Variable is the environment variable that, with the value full, makes tests try all
// combinations.
const Variable = "SAGEACC_SWEEPS"

// Full says that a test is to try all combinations. Otherwise it tries so many that every value
// of each of its dimensions meets, somewhere, every value of each other that may matter to it.
func Full() bool { return os.Getenv(Variable) == "full" }
