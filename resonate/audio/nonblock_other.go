//go:build !unix

package audio

const nonBlock = 0
