package saved

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/onestep-go/onestep/internal/pickle"
	"github.com/onestep-go/onestep/internal/quote"
)

// legacyMagic is what files of torch.save from before PyTorch 1.6 begin with: the pickle of a number.
const legacyMagic = "\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

// legacyProtocol is the version of that format, which never changed.
const legacyProtocol = 1001

// legacy reads the description of the tensors in a file from before PyTorch 1.6 (torch/serialization.py, _legacy_save): pickles of a magic
// number, the version, the system, the object and the keys of the storages, and the storages in that order, each after its number of
// elements.
func legacy(data []byte) (root any, part parts, err error) {
	fail := func(err error) (any, parts, error) {
		return nil, nil, fmt.Errorf("legacy format of torch.save, before PyTorch 1.6: %w", err)
	}
	at := len(legacyMagic)
	next := func() (pickle.First, error) {
		v, err := pickle.UnpickleFirst(data[at:min(len(data), at+maxPickle)])
		if err != nil {
			return v, fmt.Errorf("pickle at byte %d: %w", at, err)
		}
		at += v.Size
		return v, nil
	}
	var all [4]pickle.First // the version, the system, the object, the keys
	for i := range all {
		if all[i], err = next(); err != nil {
			return fail(err)
		}
	}
	if all[0].Value != legacyProtocol {
		return fail(fmt.Errorf("want protocol %d, got %s", legacyProtocol, quote.Text(fmt.Sprint(all[0].Value))))
	}
	if system, ok := all[1].Value.(*pickle.Dict); !ok || system.Get("little_endian") != true {
		return fail(errors.New("its byte order is not little-endian: " + convertHint))
	}
	class := map[string]string{} // of storages, by key
	for _, id := range all[2].IDs {
		st, err := storageOf(pickle.Persistent{ID: id})
		if err != nil {
			continue // a class's source; a tensor with it is an error
		}
		class[st.key] = st.class
	}
	keys, ok := all[3].Value.(*pickle.List)
	if !ok {
		return fail(errors.New("want a list of keys after the object"))
	}
	type span struct{ from, to int }
	members := map[string]span{}
	for _, k := range keys.Items {
		key, ok := k.(string)
		if !ok {
			return fail(errors.New("want keys of storages that are strings"))
		}
		size, ok := sizeOfClass(class[key])
		if !ok {
			return fail(fmt.Errorf("storage %s has an unknown class, %s", quote.Quoted(key), quote.Quoted(class[key])))
		}
		if at > len(data)-8 {
			return fail(fmt.Errorf("storage %s: the file is truncated", quote.Quoted(key)))
		}
		n := binary.LittleEndian.Uint64(data[at:])
		at += 8
		if n > math.MaxInt64 || int(n) > (len(data)-at)/size {
			return fail(fmt.Errorf("storage %s has %d elements, which extend beyond the end of the file: it is truncated or damaged", quote.Quoted(key), n))
		}
		members["data/"+key] = span{at, at + int(n)*size}
		at += int(n) * size
	}
	return all[2].Value, func(name string) ([]byte, int, error) {
		m, ok := members[name]
		if !ok {
			return nil, 0, fmt.Errorf("missing storage %s: %w", quote.Quoted(name), fs.ErrNotExist)
		}
		return data[m.from:m.to], m.from, nil
	}, nil
}

// sizeOfClass returns the bytes of an element of a storage class.
func sizeOfClass(class string) (int, bool) {
	if class == "UntypedStorage" {
		return 1, true
	}
	if d, ok := classes[class]; ok {
		return d.Size(), true
	}
	size, ok := map[string]int{"ShortStorage": 2, "CharStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16}[class]
	return size, ok
}
