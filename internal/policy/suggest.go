package policy

import "strings"

// closest returns the word that s was most likely meant to be, and false if none is
// near enough to be a help.
func closest(s string, words []string) (string, bool) {
	if len(s) > 64 { // a typo is short; do not spend time on hostile keys
		return "", false
	}
	low := strings.ToLower(s)
	best, bestDist := "", 1+max(1, len(s)/3)
	for _, w := range words {
		if d := editDistance(low, strings.ToLower(w)); d < bestDist {
			best, bestDist = w, d
		}
	}
	return best, best != ""
}

// editDistance is Levenshtein's, with a swap of neighbours counted as one.
func editDistance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// oneOf writes a list of words for a message: "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
