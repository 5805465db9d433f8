// SPDX-License-Identifier: Apache-2.0
//
// Goroutines that call one function. Commands on standard input ("4 1009": goroutines, calls of each), one JSON object a line as answer.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sync"
)

// A leaf without a frame: its prologue has no check of the stack, so nothing can run its entry twice for one call.
//
//go:noinline
func leaf(n uint64) uint64 { return n*6364136223846793005 + 1442695040888963407 }

// Deep enough that the goroutine's stack has to grow and move while it is running.
//
//go:noinline
func deep(n int) uint64 {
	var frame [64]uint64
	if n == 0 {
		return leaf(1)
	}
	frame[n%64] = deep(n-1)
	return frame[n%64] ^ leaf(uint64(n))
}

func main() {
	fmt.Printf("{\"ready\": %d}\n", os.Getpid())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var goroutines, calls int
		fmt.Sscanf(lines.Text(), "%d %d", &goroutines, &calls)
		sums := make([]uint64, goroutines)
		var done sync.WaitGroup
		for g := range sums {
			done.Add(1)
			go func() {
				defer done.Done()
				for i := 0; i < calls; i++ {
					sums[g] = leaf(sums[g] + uint64(i))
				}
				sums[g] ^= deep(1000)
			}()
		}
		done.Wait()
		var sum uint64
		for _, one := range sums {
			sum += one
		}
		fmt.Printf("{\"checksum\": \"%016x\"}\n", sum)
	}
}
