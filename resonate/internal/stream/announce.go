package stream

// Clip is a short piece of audio in memory, stereo, at one rate.
type Clip struct {
	Rate int // frames per second
	PCM  []int32
}

// Announcement is spoken over what a group plays.
type Announcement struct {
	Clip    Clip
	Players map[string]bool // ids of the members that hear it
	At      micros          // when it begins; at the earliest moment that all can if that is later
	Duck    float64         // gain of the music below it, 0 to 1
	Ramp    micros          // how long the music takes to go down and to come back
	Done    func()          // called once, when it has sounded or was given up; must not block
}

// voice is an announcement on the timeline.
type voice struct {
	Announcement
	pcm   []int32 // at the timeline's rate
	start int64   // position of its first frame
	down  int64   // frames that the music takes to go down: the ramp, or what is left for it
	ramp  int64   // frames that it takes to come back
}

func (v *voice) end() int64 { return v.start + int64(len(v.pcm)/Channels) }

// over reports whether nothing of it is left at position p, its ramps included.
func (v *voice) over(p int64) bool { return p >= v.end()+v.ramp }

// mix is music with the announcement over it; music itself where there is none.
func (v *voice) mix(music []int32, pos int64) []int32 {
	n := int64(len(music) / Channels)
	if pos+n <= v.start-v.down || v.over(pos) {
		return music
	}
	out := make([]int32, len(music))
	for i := range n {
		p := pos + i
		gain := v.gain(p)
		for c := range int64(Channels) {
			s := float64(music[i*Channels+c])
			if gain != gainOne {
				s *= gain
			}
			if at := p - v.start; at >= 0 && p < v.end() {
				s += float64(v.pcm[at*Channels+c])
			}
			out[i*Channels+c] = clip(s)
		}
	}
	return out
}

// gain is that of the music at position p: it goes down before the first word
// and comes back after the last.
func (v *voice) gain(p int64) float64 {
	depth := 1.0
	switch {
	case p < v.start-v.down || p >= v.end()+v.ramp:
		return gainOne
	case p < v.start:
		depth = float64(p-(v.start-v.down)) / float64(v.down)
	case p >= v.end():
		depth = 1 - float64(p-v.end())/float64(v.ramp)
	}
	return 1 - depth*(1-v.Duck)
}
