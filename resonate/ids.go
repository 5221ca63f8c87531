package resonate

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
)

// topicSafe is an id that stands for itself in topics and entity ids.
var topicSafe = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// playerID makes the topic-safe id of a client: the client id itself where it
// is safe, else its readable part and 8 hex digits of its SHA-256, so that two
// clients never share one topic. taken reports ids that others have.
func playerID(clientID string, taken func(string) bool) string {
	if topicSafe.MatchString(clientID) && !reservedID(clientID) && !taken(clientID) {
		return clientID
	}
	sum := sha256.Sum256([]byte(clientID))
	digits := hex.EncodeToString(sum[:])
	readable := slug(clientID, 24)
	switch {
	case readable == "":
		readable = "player"
	case reservedID(readable):
		readable = "player-" + readable
	}
	for n := 8; ; n += 8 {
		if id := readable + "-" + digits[:n]; n == len(digits) || !taken(id) {
			return id
		}
	}
}

// groupID makes the id of a named group from its name.
func groupID(name string, taken func(string) bool) string {
	base := slug(name, 32)
	if base == "" || reservedID(base) || strings.HasPrefix(base, soloPrefix) || strings.HasPrefix(base, adHocPrefix) {
		base = "room-" + base
	}
	base = strings.TrimRight(base, "-")
	id := base
	for n := 2; taken(id); n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	return id
}

// reservedID reports ids that topics use otherwise (design: 4.5).
func reservedID(id string) bool {
	return id == "bridge" || strings.HasPrefix(id, "group_")
}

// slug lower-cases s and turns runs of anything else than letters, digits and
// underscores of ASCII into one "-"; at most limit bytes.
func slug(s string, limit int) string {
	var b strings.Builder
	dash := false
	for _, r := range strings.ToLower(s) {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') || r == '_' {
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			dash = false
			b.WriteRune(r)
		} else {
			dash = true
		}
		if b.Len() >= limit {
			break
		}
	}
	return strings.Trim(b.String(), "-_")
}
