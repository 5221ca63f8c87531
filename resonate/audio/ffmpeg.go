package audio

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ffmpegFormats are the containers that ffmpeg may take its input for: none of
// them names other files or addresses.
const ffmpegFormats = "mov,mp4,m4a,3gp,3g2,mj2,asf,matroska,webm,aac,ac3,eac3,aiff,ape,wv,caf,mpegts,mp3,flac,ogg,wav,w64,tta,au,amr,dsf,latm,loas"

// ffmpegDecoder is an ffmpeg process. It gets the bytes that we fetched, never an
// address that a user named: through its standard input, or, so that it can move
// about in them, from a server of ours on loopback that serves nothing else. Its
// output is a WAV stream.
type ffmpegDecoder struct {
	program string
	media   *stream
	p       props
	server  *loopback // nil: through standard input
	heard   bool      // it gave sound

	mu     sync.Mutex // guards run and closed: close comes from anywhere
	run    *ffmpegRun
	closed bool
}

// openFFmpeg starts ffmpeg for what media has, which is what it is for the user.
func (o Options) openFFmpeg(ctx context.Context, media *stream, what string) (decoder, error) {
	program := o.FFmpeg
	if program == "" || program == "auto" {
		program = "ffmpeg"
	}
	path, err := exec.LookPath(program)
	if program == "off" || err != nil {
		return nil, fmt.Errorf("%w: %s needs ffmpeg, which is not installed or is turned off", ErrUnsupported, what)
	}
	d := &ffmpegDecoder{program: path, media: media}
	d.p.detached = true
	if what == "mp4" && media.seekable {
		d.p.tags, d.p.picture = media.mp4Tags()
	}
	if media.seekable {
		if d.server, err = newLoopback(ctx, media); err != nil {
			return nil, fmt.Errorf("audio: %w", err)
		}
		d.probe(ctx)
	}
	if err := d.start(0); err != nil {
		d.close()
		return nil, err
	}
	f := d.run.wav.props().native
	d.p.native.SampleRate, d.p.native.Channels = f.SampleRate, f.Channels
	if d.p.native.Codec == "" {
		d.p.native.Codec = what
	}
	if d.p.native.BitDepth == 0 {
		d.p.native.BitDepth = f.BitDepth
	}
	return d, nil
}

// mp4Tags reads the tags of an MP4 file, wherever in it they are, and comes
// back to its beginning.
func (s *stream) mp4Tags() (tags Tags, picture []byte) {
	tags, picture = readTags(s)
	_, _ = s.Seek(0, io.SeekStart) // the next read has the error
	return tags, picture
}

// probeWithin bounds ffprobe. It is long because a program takes seconds to
// start on a small machine that is busy, and without it a file can't be
// positioned.
const probeWithin = 15 * time.Second

// probe asks ffprobe, if it stands beside ffmpeg, for what only the container
// says.
func (d *ffmpegDecoder) probe(ctx context.Context) {
	path, err := exec.LookPath(filepath.Join(filepath.Dir(d.program), "ffprobe"))
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-v", "error", "-protocol_whitelist", "http,tcp", "-format_whitelist", ffmpegFormats,
		"-select_streams", "a:0", "-show_entries", "format=duration:format_tags:stream=codec_name,sample_rate,bits_per_raw_sample",
		"-of", "json", d.server.url)
	contain(cmd)
	out, err := cmd.Output()
	if err != nil {
		return
	}
	var found struct {
		Streams []struct {
			Codec string `json:"codec_name"`
			Rate  string `json:"sample_rate"`
			Bits  string `json:"bits_per_raw_sample"`
		} `json:"streams"`
		Format struct {
			Duration string            `json:"duration"`
			Tags     map[string]string `json:"tags"`
		} `json:"format"`
	}
	if json.Unmarshal(out, &found) != nil || len(found.Streams) == 0 {
		return
	}
	s := found.Streams[0]
	rate, _ := strconv.Atoi(s.Rate)
	seconds, _ := strconv.ParseFloat(found.Format.Duration, 64)
	d.p.native.Codec = cleanText(s.Codec)
	d.p.native.BitDepth, _ = strconv.Atoi(s.Bits)
	if rate > 0 && seconds > 0 && seconds < 1e7 {
		d.p.frames, d.p.seekable = int64(seconds*float64(rate)+0.5), true
	}
	if d.p.tags == (Tags{}) {
		tag := func(key string) string {
			for k, v := range found.Format.Tags {
				if strings.EqualFold(k, key) {
					return cleanText(v)
				}
			}
			return ""
		}
		d.p.tags = Tags{
			Title: tag("title"), Artist: tag("artist"), AlbumArtist: tag("album_artist"), Album: tag("album"),
			Year: leadingInt(tag("date")), Track: leadingInt(tag("track")),
		}
	}
}

// start runs ffmpeg from a place in the medium on.
func (d *ffmpegDecoder) start(frame int64) error {
	args := []string{"-nostdin", "-hide_banner", "-loglevel", "error", "-format_whitelist", ffmpegFormats}
	if d.server == nil {
		args = append(args, "-protocol_whitelist", "pipe", "-i", "pipe:0")
	} else {
		if frame > 0 {
			args = append(args, "-ss", fmt.Sprintf("%.6f", float64(frame)/float64(d.p.native.SampleRate)))
		}
		args = append(args, "-protocol_whitelist", "http,tcp", "-i", d.server.url)
	}
	args = append(args, "-map", "0:a:0", "-map_metadata", "-1", "-ac", strconv.Itoa(Channels), "-c:a", "pcm_s32le", "-f", "wav", "pipe:1")
	run, err := startFFmpeg(d.program, args, d.media, d.server == nil)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		run.kill()
		return ErrClosed
	}
	d.run = run
	return nil
}

func (d *ffmpegDecoder) props() *props { return &d.p }

func (d *ffmpegDecoder) read(dst []int32) (int, error) {
	n, err := d.run.wav.read(dst)
	d.heard = d.heard || n > 0
	if n == 0 && errors.Is(err, io.EOF) {
		failed := d.run.finish()
		switch said := d.run.said.text(); {
		case failed != nil:
			err = fmt.Errorf("%w: ffmpeg: %w", ErrDamaged, failed)
		case !d.heard && said != "" && d.server == nil && d.media.Size() >= 0:
			err = fmt.Errorf("%w: ffmpeg finds no sound in it (%s); it may need a server that can send parts of it", ErrUnsupported, said)
		}
	}
	return n, err
}

func (d *ffmpegDecoder) seek(frame int64) error {
	d.run.kill()
	return d.start(frame)
}

func (d *ffmpegDecoder) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	if d.run != nil {
		d.run.kill()
	}
	if d.server != nil {
		d.server.close()
	}
}

// ffmpegRun is one process.
type ffmpegRun struct {
	wav     decoder
	cmd     *exec.Cmd
	cancel  context.CancelFunc // kills it
	feeding sync.WaitGroup
	said    tail // on its standard error
	wait    func() error
}

// ffmpegGrace is for a process that has closed its output to end by itself.
const ffmpegGrace = time.Second

// startFFmpeg starts the program and waits for the header of its output. If it
// fails, and is fed, media is closed.
func startFFmpeg(program string, args []string, media *stream, feed bool) (*ffmpegRun, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &ffmpegRun{cmd: exec.CommandContext(ctx, program, args...), cancel: cancel}
	r.wait = sync.OnceValue(func() error { return r.cmd.Wait() })
	contain(r.cmd)
	r.cmd.Stderr = &r.said
	out, err := r.cmd.StdoutPipe()
	var in io.WriteCloser
	if err == nil && feed {
		in, err = r.cmd.StdinPipe()
	}
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if feed {
		// Ends with the process, or with the medium, which its owner closes.
		r.feeding.Go(func() {
			_, _ = io.Copy(in, media)
			in.Close()
		})
	}
	if r.wav, err = openWAV(newStream(notSeekable{out}, -1, false)); err == nil {
		return r, nil
	}
	err = media.failure()
	if feed {
		media.Close()
	}
	r.kill()
	if err == nil {
		err = fmt.Errorf("%w: ffmpeg finds no sound in it: %s", ErrUnsupported, r.said.text())
	}
	return nil, err
}

// finish waits for the end of a process that has nothing more to say.
func (r *ffmpegRun) finish() error {
	defer time.AfterFunc(ffmpegGrace, r.cancel).Stop()
	if err := r.wait(); err != nil {
		return fmt.Errorf("%w: %s", err, r.said.text())
	}
	return nil
}

func (r *ffmpegRun) kill() {
	r.cancel()
	_ = r.wait()
	r.feeding.Wait()
}

// tail keeps the last of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 1024
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, p...); len(t.b) > most {
		t.b = append(t.b[:0], t.b[len(t.b)-most:]...)
	}
	return len(p), nil
}

// text is the last line.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return cleanText(lines[len(lines)-1])
}

// loopback serves a medium to ffmpeg.
type loopback struct {
	url    string
	server *http.Server
	done   sync.WaitGroup

	mu     sync.Mutex // one request at a time: a process may ask anew before its last one has ended
	closed bool
}

func newLoopback(ctx context.Context, media *stream) (*loopback, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	path := "/" + rand.Text()
	b := &loopback{url: "http://" + l.Addr().String() + path}
	b.server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				http.NotFound(w, r)
				return
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.closed {
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, r, "", time.Time{}, media)
		}),
	}
	// Ends with close.
	b.done.Go(func() { _ = b.server.Serve(l) })
	return b, nil
}

// close waits for the request that is being served.
func (b *loopback) close() {
	_ = b.server.Close()
	b.done.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
