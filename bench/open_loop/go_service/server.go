package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
)

// A request is op u8, user u64, channel u64, message u64, number u32, and its answer number u32,
// last message u64, mention count u32, all big-endian.
const (
	requestSize = 29
	answerSize  = 16
	bufferSize  = 64 * 1024
)

const (
	opAck = iota
	opIncrement
	opGet
)

func serve(listener net.Listener, cache *cache) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := answer(conn, cache); err != io.EOF {
				log.Print(err)
			}
		}()
	}
}

// Answers what has been received with one write.
func answer(conn net.Conn, cache *cache) error {
	reader := bufio.NewReaderSize(conn, bufferSize)
	writer := bufio.NewWriterSize(conn, bufferSize)
	var request [requestSize]byte
	for {
		if _, err := io.ReadFull(reader, request[:]); err != nil {
			return err
		}
		k := key{binary.BigEndian.Uint64(request[1:]), binary.BigEndian.Uint64(request[9:])}
		message := binary.BigEndian.Uint64(request[17:])
		partition := cache.partition(k.user)
		var lastMessage uint64
		var mentions uint32
		switch request[0] {
		case opAck:
			partition.ack(k, message)
		case opIncrement:
			partition.increment(k, message)
		case opGet:
			lastMessage, mentions = partition.get(k)
		default:
			return fmt.Errorf("there is no operation %d", request[0])
		}
		answer := append(writer.AvailableBuffer(), request[25:]...)
		answer = binary.BigEndian.AppendUint64(answer, lastMessage)
		answer = binary.BigEndian.AppendUint32(answer, mentions)
		if _, err := writer.Write(answer); err != nil {
			return err
		}
		if reader.Buffered() < requestSize {
			if err := writer.Flush(); err != nil {
				return err
			}
		}
	}
}
