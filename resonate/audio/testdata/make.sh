#!/bin/sh
# Makes the media of this directory, for which Debian's ffmpeg, lame,
# opus-tools and flac are needed. The sound is the one that
# chirp in media_test.go computes.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

chirp() { # rate seconds file
  ffmpeg -v error -y -f lavfi -i "aevalsrc='0.4*sin(2*PI*(200*t+500*t*t))|0.3*sin(2*PI*(900*t-200*t*t))':s=$1:d=$2" -c:a pcm_s24le "$3"
}
surround() { # seconds file: 48 kHz, the channels are tones of 100, 200, ... Hz
  ffmpeg -v error -y -f lavfi -i "aevalsrc='0.3*sin(2*PI*100*t)|0.3*sin(2*PI*200*t)|0.3*sin(2*PI*300*t)|0.3*sin(2*PI*400*t)|0.3*sin(2*PI*500*t)|0.3*sin(2*PI*600*t)':s=48000:d=$1:c=5.1" "$2"
}
chirp 44100 1 "$tmp/44.wav"
chirp 48000 1 "$tmp/48.wav"
chirp 22050 1 "$tmp/22.wav"
chirp 48000 0.2 "$tmp/short.wav"
surround 0.3 "$tmp/51.wav"
ffmpeg -v error -y -f lavfi -i color=red:s=32x32:d=1 -frames:v 1 "$tmp/cover.png"

tags="--tt Chirp --ta Gen\ Erator --tl Sweeps --ty 2026 --tn 3/9"
eval lame --quiet --noreplaygain --resample 44.1 --cbr -b 96 -m j --id3v2-only --ti '"$tmp/cover.png"' $tags '"$tmp/44.wav"' cbr.mp3
lame --quiet --noreplaygain --resample 44.1 -V 7 --id3v1-only --tt "Old Chirp" --ta "Gen" --tn 7 "$tmp/44.wav" vbr.mp3
lame --quiet --noreplaygain --resample 44.1 -t --cbr -b 64 "$tmp/44.wav" bare.mp3 # no LAME header
lame --quiet --noreplaygain --resample 22.05 --cbr -b 40 -m m "$tmp/22.wav" mono22.mp3
ffmpeg -v error -y -i "$tmp/44.wav" -c:a libvorbis -q:a 0 -page_duration 200000 -bitexact -metadata title=Chirp -metadata "artist=Gen Erator" \
  -metadata album=Sweeps -metadata date=2026 -metadata track=3 chirp.ogg
opusenc --quiet --max-delay 200 --bitrate 64 --serial 1 --title Chirp --artist "Gen Erator" --album Sweeps --date 2026 --tracknumber 3 \
  --picture "$tmp/cover.png" "$tmp/48.wav" chirp.opus
flac --silent -f -8 -T TITLE=Chirp -T "ARTIST=Gen Erator" -T DATE=2026-05-01 --picture="$tmp/cover.png" -S 0.05s "$tmp/short.wav" -o short.flac
flac --silent -f -5 --ogg --serial-number=1 -T TITLE=Chirp "$tmp/short.wav" -o flac.ogg
ffmpeg -v error -y -i "$tmp/51.wav" -c:a libopus -b:a 128k -mapping_family 1 -bitexact surround.opus
ffmpeg -v error -y -i "$tmp/51.wav" -c:a libvorbis -q:a 0 -bitexact surround.ogg
ffmpeg -v error -y -i "$tmp/48.wav" -c:a aac -b:a 128k -bitexact -metadata title=Chirp -metadata "artist=Gen Erator" -metadata date=2026 \
  end.m4a # its index is at the end
ffmpeg -v error -y -i "$tmp/48.wav" -c:a aac -b:a 128k -bitexact chirp.aac
ls -l
