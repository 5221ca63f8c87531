package audio

import (
	"bytes"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Limits of playlists.
const (
	maxPlaylist = 1 << 20 // bytes
	maxEntries  = 2000
	maxNesting  = 3 // playlists in playlists
	maxTries    = 5 // entries, until one can be opened
)

// parsePlaylist reads M3U and PLS. Entries that are relative are resolved by
// resolve, which returns "" for what must not be opened.
func parsePlaylist(b []byte, resolve func(string) string) []Entry {
	text := strings.TrimPrefix(toUTF8(b), "\uFEFF")
	var list []Entry
	add := func(e Entry) {
		if e.URL = resolve(e.URL); e.URL != "" && len(list) < maxEntries {
			list = append(list, e)
		}
	}
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), "[playlist]") {
		for _, e := range parsePLS(text) {
			add(e)
		}
		return list
	}
	var title string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		info, isInfo := strings.CutPrefix(line, "#EXTINF:")
		switch {
		case isInfo:
			_, title, _ = strings.Cut(info, ",")
			title = cleanText(title)
		case line == "" || line[0] == '#':
		default:
			add(Entry{line, title})
			title = ""
		}
	}
	return list
}

// parsePLS reads "File1=..." and "Title1=...", in the order of the numbers.
func parsePLS(text string) []Entry {
	byNumber := map[int]*Entry{}
	highest := 0
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		key = strings.ToLower(strings.TrimSpace(key))
		digits := strings.TrimLeft(key, "abcdefghijklmnopqrstuvwxyz")
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 || n > maxEntries {
			continue
		}
		if byNumber[n] == nil {
			byNumber[n] = &Entry{}
			highest = max(highest, n)
		}
		switch strings.TrimSuffix(key, digits) {
		case "file":
			byNumber[n].URL = strings.TrimSpace(value)
		case "title":
			byNumber[n].Title = cleanText(value)
		}
	}
	var list []Entry
	for n := range highest + 1 {
		if e := byNumber[n]; e != nil && e.URL != "" {
			list = append(list, *e)
		}
	}
	return list
}

// networkEntry resolves an entry of a playlist that came from base: what the
// network says may not name files of this machine.
func networkEntry(base *url.URL) func(string) string {
	return func(entry string) string {
		u, err := base.Parse(strings.TrimSpace(entry))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			return ""
		}
		return u.String()
	}
}

// fileEntry resolves an entry of a playlist in a directory.
func fileEntry(dir string) func(string) string {
	return func(entry string) string {
		if u, err := url.Parse(entry); err == nil && len(u.Scheme) > 1 {
			return entry
		}
		entry = filepath.FromSlash(strings.ReplaceAll(entry, `\`, "/"))
		if filepath.IsAbs(entry) {
			return entry
		}
		return filepath.Join(dir, entry)
	}
}

// isPlaylist tells a playlist by its beginning, or by its name and media type if
// that says nothing.
func isPlaylist(head []byte, name, mediaType string) bool {
	head = bytes.TrimPrefix(head, []byte("\uFEFF"))
	head = bytes.TrimSpace(head)
	if bytes.HasPrefix(head, []byte("#EXTM3U")) || len(head) >= 10 && strings.EqualFold(string(head[:10]), "[playlist]") {
		return true
	}
	mediaType, _, _ = strings.Cut(strings.ToLower(mediaType), ";")
	switch strings.TrimSpace(mediaType) {
	case "audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl", "application/vnd.apple.mpegurl", "audio/x-scpls":
	default:
		switch strings.ToLower(filepath.Ext(name)) {
		case ".m3u", ".m3u8", ".pls":
		default:
			return false
		}
	}
	return len(head) > 0 && bytes.IndexByte(head, 0) < 0 // some stations call sound so
}
