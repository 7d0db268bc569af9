package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// Job is what a job script runs.
type Job struct {
	// Command is the comparison, without what says of which shard, and where its part
	// goes.
	Command []string
	Shards  int
	// Jobs is how many cores a shard has. Seconds is what a shard is expected to take
	// with them, Memory the bytes that it needs.
	Jobs    int
	Seconds float64
	Memory  uint64
	// Image is the container's, Claim the volume claim that holds the dump and takes the
	// parts, for Kubernetes.
	Image, Claim string
}

// limit is the time that a scheduler is asked for: twice what is expected, and at least
// ten minutes.
func (j *Job) limit() int { return int(max(600, math.Ceil(float64(2*j.Seconds)))) }

// megabytes is the memory that a scheduler is asked for: half as much again, and at least
// 512 MiB.
func (j *Job) megabytes() uint64 { return max(512, (j.Memory+j.Memory/2)>>20) }

// quote writes a word as a shell reads it.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func quoteAll(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, quote(w))
	}
	return strings.Join(out, " ")
}

// Slurm writes a script for sbatch: an array of a task for each shard. A task that is
// requeued, or run again, goes on where it ended.
func Slurm(w io.Writer, j *Job) error {
	s := j.limit()
	_, err := fmt.Fprintf(w, `#!/bin/bash
# Submit with sbatch, in the folder that the dump's paths are relative to. When all
# tasks are done:
#   sageacc merge part-* -o result.json
# A single task that failed is run again with: sbatch --array=NUMBER THIS-FILE
#SBATCH --job-name=sageacc
#SBATCH --array=0-%d
#SBATCH --cpus-per-task=%d
#SBATCH --mem=%dM
#SBATCH --time=%d:%02d:%02d
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sageacc-%%a.log
exec %s --shard array/%d --resume -o "part-$SLURM_ARRAY_TASK_ID"
`, j.Shards-1, j.Jobs, j.megabytes(), s/3600, s/60%60, s%60, quoteAll(j.Command), j.Shards)
	return err
}

// Kubernetes writes the manifest of an Indexed Job with an index for each shard. The
// volume is the working folder. An index that fails is tried again, and goes on where it
// ended.
func Kubernetes(w io.Writer, j *Job) error {
	word := func(s string) string {
		// JSON is YAML.
		b, err := json.Marshal(s)
		if err != nil {
			return `""` // no string is one that JSON has not
		}
		return string(b)
	}
	// There need be no shell in the image: Kubernetes puts $(NAME) in, and $$ is a $.
	var command []string
	for _, x := range j.Command {
		command = append(command, word(strings.ReplaceAll(x, "$", "$$")))
	}
	command = append(command, `"--shard"`, fmt.Sprintf(`"array/%d"`, j.Shards), `"--resume"`, `"-o"`, `"part-$(JOB_COMPLETION_INDEX)"`)
	_, err := fmt.Fprintf(w, `# kubectl apply -f THIS-FILE. When all indexes are done, in the volume:
#   sageacc merge part-* -o result.json
apiVersion: batch/v1
kind: Job
metadata:
  name: sageacc
spec:
  completionMode: Indexed
  completions: %d
  parallelism: %d
  backoffLimitPerIndex: 3
  maxFailedIndexes: %d
  template:
    spec:
      restartPolicy: Never
      securityContext: {fsGroup: 65532} # the image's user writes to the volume
      containers:
        - name: sageacc
          image: %s
          command: [%s]
          workingDir: /data
          resources:
            requests: {cpu: "%d", memory: "%dMi"}
            limits: {cpu: "%d", memory: "%dMi"}
          volumeMounts:
            - {name: data, mountPath: /data}
      volumes:
        - name: data
          persistentVolumeClaim: {claimName: %s}
`, j.Shards, j.Shards, j.Shards, word(j.Image), strings.Join(command, ", "), j.Jobs, j.megabytes(), j.Jobs, j.megabytes(), word(j.Claim))
	return err
}
