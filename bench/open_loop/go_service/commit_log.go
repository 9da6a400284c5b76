package main

import (
	"encoding/binary"
	"log"
	"os"
	"sync"
	"time"
)

const writeEvery = 100 * time.Millisecond

// In the place of a database, a file that commits are appended to. Who commits copies 28 bytes and never
// waits for the file; unlike a database it answers nobody, and is not synced.
type commitLog struct {
	file   *os.File
	mutex  sync.Mutex
	buffer []byte
}

func openCommitLog(path string) (*commitLog, error) {
	file, err := os.Create(path)
	return &commitLog{file: file}, err
}

func (l *commitLog) append(s *readState) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.buffer = binary.BigEndian.AppendUint64(l.buffer, s.user)
	l.buffer = binary.BigEndian.AppendUint64(l.buffer, s.channel)
	l.buffer = binary.BigEndian.AppendUint64(l.buffer, s.lastMessage)
	l.buffer = binary.BigEndian.AppendUint32(l.buffer, s.mentions)
}

// Two buffers take turns, so that none is allocated for each write.
func (l *commitLog) writeForever() {
	var written []byte
	for range time.Tick(writeEvery) {
		l.mutex.Lock()
		written, l.buffer = l.buffer, written[:0]
		l.mutex.Unlock()
		if _, err := l.file.Write(written); err != nil {
			log.Fatal(err)
		}
	}
}
