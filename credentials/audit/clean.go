package audit

// A cleaner takes out of a log what a terminal obeys or a transport has put between
// its bytes, and that could stand in the middle of a secret: escape sequences,
// control characters, and the headers of the frames that Docker writes.
type cleaner struct {
	state  cleanerState
	header int // bytes of a frame's header that have come
}

type cleanerState byte

const (
	inText cleanerState = iota
	inEscape
	inSequence // ESC [ …
	inString   // ESC ] … BEL, or ESC \
	inStringEscape
	inHeader
)

const (
	headerSize = 8
	maxFrame   = 1 << 17 // more than Docker puts into one
)

// special are the bytes that are not text.
var special = func() (t [256]bool) {
	for i := range 0x20 {
		t[i] = i != '\n' && i != '\t'
	}
	t[0x7f] = true
	return t
}()

// clean appends the text of src to dst.
func (c *cleaner) clean(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		b := src[i]
		switch c.state {
		case inText:
			from := i
			for i < len(src) && !special[src[i]] {
				i++
			}
			if i > from {
				dst = append(dst, src[from:i]...)
			}
			if i == len(src) {
				return dst
			}
			switch src[i] {
			case 0x1b:
				c.state = inEscape
			case 1, 2:
				c.state, c.header = inHeader, 1
			}
			i++
		case inEscape:
			i++
			switch {
			case b == '[':
				c.state = inSequence
			case b == ']', b == 'P', b == '_', b == '^':
				c.state = inString
			case b >= 0x20 && b < 0x30: // more to come
			default:
				c.state = inText
			}
		case inSequence:
			switch {
			case b >= 0x40 && b <= 0x7e:
				c.state = inText
				i++
			case b >= 0x20 && b < 0x40:
				i++
			default: // it was none
				c.state = inText
			}
		case inString:
			switch {
			case b == '\n': // it was none: a log would be gone else
				c.state = inText
			case b == 7:
				c.state = inText
				i++
			case b == 0x1b:
				c.state = inStringEscape
				i++
			default:
				i++
			}
		case inStringEscape:
			c.state = inText
			if b == '\\' {
				i++
			}
		case inHeader:
			// One byte that says which stream, three zeros, and the length.
			if c.header < 5 && b != 0 || c.header == 5 && b >= maxFrame>>16 {
				c.state = inText
				continue
			}
			i++
			if c.header++; c.header == headerSize {
				c.state = inText
			}
		}
	}
	return dst
}
