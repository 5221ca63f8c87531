package pairing

// hidden keeps a secret out of the sight of fmt, which looks into unexported
// fields and, for a verb that does not fit, follows one pointer, but not two.
// The zero value holds none. Copies share it.
type hidden[T any] struct{ box *box[T] }

type box[T any] struct{ v *T }

func hide[T any](v *T) hidden[T] { return hidden[T]{&box[T]{v}} }

// get is the secret, nil if there is none.
func (h hidden[T]) get() *T {
	if h.box == nil {
		return nil
	}
	return h.box.v
}
