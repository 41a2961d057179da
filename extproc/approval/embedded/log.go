package embedded

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/datafile"
)

// ErrDamaged is a log that no crash leaves.
var ErrDamaged = errors.New("the log of the approvals file is damaged")

// log is where changes become durable first, as one frame for each batch. It has two files, which take turns: while one is folded
// into the approvals file, changes go to the other. When its turn comes a file is overwritten from its beginning, because bytes that a
// file already has are the fastest to sync.
//
// A frame is:
//
//	magic   4 bytes
//	length  4 bytes, big-endian, of the payload
//	turn    8 bytes, big-endian: counts the turns, from 1; odd ones are in the second file
//	salt    16 bytes, random, of this turn: what is left of earlier turns cannot be taken for a part of this one
//	sum     SHA-256 of the 32 bytes before and of the payload
//	payload
//
// A payload is the store's clock (8 bytes, big-endian nanoseconds), and for each changed request the length of its JSON
// (4 bytes), the JSON, the length of its card (4 bytes; 0 where the card is as before) and the card.
type log struct {
	files  [2]*os.File
	noSync bool
	turn   uint64
	salt   [16]byte
	size   int64 // of what is in the current file by now
	buf    []byte
}

const (
	frameMagic  = "csal"
	frameHead   = 4 + 4 + 8 + 16
	frameStart  = frameHead + sha256.Size
	payloadHead = 8
)

// version is a request as a change left it.
type version struct {
	request approval.Request // without its card
	text    []byte           // as JSON
	card    []byte           // nil where it is in the file
}

func (l *log) open(path string) error {
	for i := range l.files {
		name := fmt.Sprintf("%s-log%d", path, i)
		f, err := datafile.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		l.files[i] = f
		if err := f.Chmod(0o600); err != nil {
			return err
		}
	}
	return datafile.SyncDir(filepath.Dir(path))
}

func (l *log) close() error {
	var errs []error
	for _, f := range l.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// forget makes the log empty. All of it is in the file, durably, so that a file that is put back in the place of that one does
// not have to fit to it.
func (l *log) forget() error {
	var errs []error
	for _, f := range l.files {
		if info, err := f.Stat(); err != nil || info.Size() == 0 {
			errs = append(errs, err)
			continue
		}
		_, err := f.WriteAt(make([]byte, frameStart), 0)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// begin starts a turn. The file whose turn it is has nothing any more that is not folded.
func (l *log) begin(turn uint64) {
	l.turn, l.size = turn, 0
	rand.Read(l.salt[:])
}

// append makes a batch of changes durable. After an error nobody knows what is on the disk.
func (l *log) append(clock int64, batch []*version) error {
	b := append(l.buf[:0], frameMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, l.turn)
	b = append(b, l.salt[:]...)
	b = append(b, make([]byte, sha256.Size)...)
	b = binary.BigEndian.AppendUint64(b, uint64(clock))
	for _, v := range batch {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.text)))
		b = append(b, v.text...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.card)))
		b = append(b, v.card...)
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-frameStart))
	sum := frameSum(b)
	copy(b[frameHead:], sum[:])
	l.buf = b
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	f := l.files[l.turn%2]
	if _, err := f.WriteAt(b, l.size); err != nil {
		return err
	}
	l.size += int64(len(b))
	if l.noSync {
		return nil
	}
	return datafile.Sync(f)
}

// frameSum is the sum of the frame that b is.
func frameSum(b []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(b[:frameHead])
	h.Write(b[frameStart:])
	return [sha256.Size]byte(h.Sum(nil))
}

// frames are what one file holds of its last turn.
type frames struct {
	turn     uint64 // 0 where there are none
	payloads [][]byte
}

// readLog reads a file of the log up to where its last write was cut off. A bad frame before a good one is an error: no crash leaves
// that, because a frame is written only when the one before it is durable.
func readLog(text []byte, name string) (frames, error) {
	var found frames
	var first []byte
	for at := 0; ; {
		b := text[at:]
		size, ok := frameSize(b, first)
		if !ok {
			return found, nil
		}
		if sum := frameSum(b[:size]); !bytes.Equal(sum[:], b[frameHead:frameStart]) {
			if next, ok := frameSize(b[size:], b[:frameHead]); ok {
				if sum := frameSum(b[size : size+next]); bytes.Equal(sum[:], b[size+frameHead:size+frameStart]) {
					return found, fmt.Errorf("%w: %s, at byte %d", ErrDamaged, name, at)
				}
			}
			return found, nil
		}
		if first == nil {
			first = b[:frameHead]
			found.turn = binary.BigEndian.Uint64(b[8:])
		}
		found.payloads = append(found.payloads, b[frameStart:size])
		at += size
	}
}

// frameSize is how long the frame is that b begins with, if it is whole and of the same turn as the head of another.
func frameSize(b, same []byte) (int, bool) {
	if len(b) < frameStart || string(b[:4]) != frameMagic || same != nil && !bytes.Equal(b[8:frameHead], same[8:frameHead]) {
		return 0, false
	}
	size := int64(frameStart) + int64(binary.BigEndian.Uint32(b[4:]))
	return int(size), size >= frameStart+payloadHead && size <= int64(len(b))
}

// parsePayload takes a payload apart.
func parsePayload(b []byte) (clock int64, list []*version, err error) {
	clock = int64(binary.BigEndian.Uint64(b))
	b = b[payloadHead:]
	part := func() []byte {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			err = ErrDamaged
			return nil
		}
		p := b[4 : 4+binary.BigEndian.Uint32(b)]
		b = b[4+len(p):]
		return p
	}
	for len(b) > 0 && err == nil {
		v := &version{text: part()}
		if card := part(); len(card) > 0 {
			v.card = card
		}
		if err == nil {
			err = json.Unmarshal(v.text, &v.request)
		}
		list = append(list, v)
	}
	return clock, list, err
}
