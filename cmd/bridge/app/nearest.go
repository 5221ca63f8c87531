package app

import "strings"

// nearest returns the candidate that word was most likely meant to be, empty
// if none is close: more than a third of the letters differ.
func nearest(word string, candidates []string) string {
	best, bestCost := "", len(word)/3+1
	for _, c := range candidates {
		if cost := distance(strings.ToLower(word), strings.ToLower(c)); cost < bestCost || cost == bestCost && best == "" {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance counts the edits between a and b: insert, delete, replace one byte,
// or swap two neighbours (optimal string alignment).
func distance(a, b string) int {
	var before []int // row i-2
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := prev[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(prev[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}
