package dataset

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("XDG_DATA_DIRS", dir)
	write(t, dir, "notes.txt", []byte("nothing"))
	picture := write(t, dir, "one/a.png", plain(grey(1), 4, 4))
	write(t, dir, "both/a.png", plain(grey(1), 4, 4))
	write(t, dir, "both/a.tar", tarOf(t))
	write(t, dir, "empty.tar", tarOf(t))
	write(t, dir, "sizes/a.png", plain(grey(1), 4, 4))
	write(t, dir, "sizes/b.png", plain(grey(1), 4, 5))
	write(t, dir, "wrong/a.png", []byte("GIF89a"))
	write(t, dir, "several/a-train-images-idx3-ubyte", idxOf([]byte{1}, 1, 1, 1))
	write(t, dir, "several/b-train-images-idx3-ubyte", idxOf([]byte{1}, 1, 1, 1))
	write(t, dir, "shards/test-0.tar", tarOf(t, "0.png", plain(grey(1), 4, 4)))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "none"), 0o755))
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name, spec string
		o          Options
		want       string
	}{
		{"nothing", "", Options{}, "emoji|fashion-mnist|cifar10|cifar100|path"},
		{"absent", in("absent"), Options{}, "no such file|absent"},
		{"resolution", "emoji", Options{Resolution: 5000}, "want 1 to 4096 pixels, got 5000"},
		{"negative", "emoji", Options{Resolution: -1}, "got -1"},
		{"channels", "emoji", Options{Channels: 2}, "want 1 (grey) or 3 (colour), got 2"},
		{"split of emoji", "emoji", Options{Test: true}, "no test split"},
		{"fashion", "fashion-mnist", Options{}, "apt-get install dataset-fashion-mnist"},
		{"cifar", "cifar10", Options{}, "cifar-10-binary.tar.gz"},
		{"text", in("notes.txt"), Options{}, "notes.txt|directory|IDX|CIFAR|.tar"},
		{"an image", picture, Options{}, "image|directory"},
		{"empty folder", in("none"), Options{}, "no images"},
		{"empty shard", in("empty.tar"), Options{}, "no images"},
		{"both", in("both"), Options{}, "shards|images"},
		{"sizes", in("sizes"), Options{}, "choose a resolution"},
		{"wrong", in("wrong"), Options{}, "a.png"},
		{"several", in("several"), Options{}, "several IDX files"},
		{"split of folder", in("one"), Options{Test: true}, "no test split"},
		{"split of file", in("several/a-train-images-idx3-ubyte"), Options{Test: true}, "no test split"},
		{"pattern", in("x*.tar"), Options{}, "no such files"},
		{"pattern of images", in("one/*.png"), Options{}, "only .tar and .tar.gz"},
		{"bad pattern", in("[x"), Options{}, "syntax error"},
		{"not a file", os.DevNull, Options{}, "regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(c.spec, c.o)
			says(t, err, c.want)
			assert.Nil(t, s)
			assert.True(t, strings.HasPrefix(err.Error(), "data: "), err)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestReadRefuses(t *testing.T) {
	s := opened(t, "emoji", Options{})
	for _, i := range []int{-1, s.Len()} {
		_, err := s.Read(i, make([]byte, 3072))
		require.ErrorContains(t, err, "1906")
		_, err = s.Caption(i)
		require.Error(t, err)
	}
	_, err := s.Read(0, make([]byte, 3071))
	says(t, err, "3071|3072")
}

// A data set is a set of images as package evaluation takes it, without an adapter.
var _ evaluation.Set = (*Set)(nil)

// Image has the pixels of Read, in grey and in colour, and its errors.
func TestImage(t *testing.T) {
	for _, channels := range []int{1, 3} {
		s := opened(t, "emoji", Options{Resolution: 16, Channels: channels})
		img, err := s.Image(7)
		require.NoError(t, err)
		got := make([]byte, channels*16*16)
		vision.Planes(got, img)
		want, _ := at(t, s, 7)
		assert.Equal(t, want, got, channels)
		_, err = s.Image(s.Len())
		require.ErrorContains(t, err, "1906")
	}
}

func TestEmoji(t *testing.T) {
	s := opened(t, "emoji", Options{})
	c, h, w := s.Shape()
	assert.Equal(t, []int{3, 32, 32, 1906}, []int{c, h, w, s.Len()})
	assert.Equal(t, "emoji", s.Name())
	assert.Equal(t, []string{"Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
		"Activities", "Objects", "Symbols", "Flags"}, s.Classes())
	count, hash := make([]int, 9), md5.New()
	for i := range s.Len() {
		px, label := at(t, s, i)
		count[label]++
		hash.Write(px)
	}
	assert.Equal(t, []int{169, 386, 159, 131, 218, 85, 264, 224, 270}, count)
	// Whoever changes the pictures changes what the shipped checkpoint was trained on.
	assert.Equal(t, "9a4e1ff78f5359aee9a48d6795f1bb0d", hex.EncodeToString(hash.Sum(nil)))
	caption, err := s.Caption(0)
	require.NoError(t, err)
	assert.Equal(t, "a flat emoji of grinning face", caption)

	small := opened(t, "emoji", Options{Resolution: 16, Channels: 1})
	c, h, w = small.Shape()
	assert.Equal(t, []int{1, 16, 16}, []int{c, h, w})
	px, label := at(t, small, 0)
	assert.Equal(t, byte(255), px[0], "the corner of a face is white")
	assert.Less(t, px[8*16+8], byte(230), "and its middle is not")
	assert.Equal(t, 0, label)
}

// The atlas is what it claims to be: each picture of the archive on white, its 2×2 blocks averaged.
func TestEmojiAreTheArchives(t *testing.T) {
	path := sharedData(t, "emoji/noto-64.tar.gz")
	s := opened(t, "emoji", Options{})
	source := opened(t, path, Options{})
	require.Equal(t, s.Len(), source.Len())
	src := source.src.(shards)
	for i := range s.Len() {
		data, err := src.encoded(i)
		require.NoError(t, err)
		img, err := png.Decode(bytes.NewReader(data))
		require.NoError(t, err)
		got, label := at(t, s, i)
		stored, fast := img.(*image.NRGBA)
		for j := range 32 * 32 {
			x, y := j%32*2, j/32*2
			var sum [3]float64
			for k := range 4 {
				var p color.NRGBA
				if fast {
					p = stored.NRGBAAt(x+k%2, y+k/2)
				} else {
					p = color.NRGBAModel.Convert(img.At(x+k%2, y+k/2)).(color.NRGBA)
				}
				a := float64(p.A) / 255
				for ch, v := range []uint8{p.R, p.G, p.B} {
					sum[ch] += float64(v)*a + 255*(1-a)
				}
			}
			for ch := range 3 {
				if want, got := sum[ch]/4, float64(got[ch*1024+j]); math.Abs(want-got) > 0.5+1e-9 {
					t.Fatalf("emoji %d at %d, %d: got %v, want %v", i, x, y, got, want)
				}
			}
		}
		caption, err := s.Caption(i)
		require.NoError(t, err)
		want, err := source.Caption(i)
		require.NoError(t, err)
		require.Equal(t, want, caption)
		_, text, err := src.Texts(i)
		require.NoError(t, err)
		var info struct{ Group string }
		require.NoError(t, json.Unmarshal(text, &info))
		require.Equal(t, info.Group, s.Classes()[label])
	}
}

func TestIDX(t *testing.T) {
	pixels := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12} // 3 images of 2×2
	images, labels := idxOf(pixels, 3, 2, 2), idxOf([]byte{2, 0, 1}, 3)
	for _, c := range []struct {
		name  string
		files map[string][]byte
		spec  string
		want  []int // labels
	}{
		{"plain", map[string][]byte{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels}, "train-images-idx3-ubyte", []int{2, 0, 1}},
		{"gzip", map[string][]byte{"train-images-idx3-ubyte.gz": gzipped(images), "train-labels-idx1-ubyte.gz": gzipped(labels)}, "train-images-idx3-ubyte.gz", []int{2, 0, 1}},
		{"mixed", map[string][]byte{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte.gz": gzipped(labels)}, "train-images-idx3-ubyte", []int{2, 0, 1}},
		{"gzip, and not by its name", map[string][]byte{"train-images.idx3-ubyte": gzipped(images)}, "train-images.idx3-ubyte", []int{-1, -1, -1}},
		{"any name", map[string][]byte{"x": images}, "x", []int{-1, -1, -1}},
		{"folder", map[string][]byte{"train-images-idx3-ubyte": images, "train-images-idx3-ubyte.gz": gzipped(images), "train-labels-idx1-ubyte": labels, "t10k-images-idx3-ubyte": idxOf([]byte{9}, 1, 1, 1)}, "", []int{2, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range c.files {
				write(t, dir, name, data)
			}
			s := opened(t, filepath.Join(dir, c.spec), Options{})
			ch, h, w := s.Shape()
			assert.Equal(t, []int{1, 2, 2}, []int{ch, h, w})
			first, got := values(t, s)
			assert.Equal(t, []int{1, 5, 9}, first)
			assert.Equal(t, c.want, got)
			if c.want[0] >= 0 {
				assert.Equal(t, []string{"0", "1", "2"}, s.Classes())
			} else {
				assert.Empty(t, s.Classes())
			}
			px, _ := at(t, opened(t, filepath.Join(dir, c.spec), Options{Channels: 3}), 1)
			assert.Equal(t, []byte{5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8}, px)
		})
	}
}

func TestIDXTestSplit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "train-images-idx3-ubyte", idxOf([]byte{1}, 1, 1, 1))
	write(t, dir, "t10k-images-idx3-ubyte", idxOf([]byte{9}, 1, 1, 1))
	first, _ := values(t, opened(t, dir, Options{Test: true}))
	assert.Equal(t, []int{9}, first)
	first, _ = values(t, opened(t, filepath.Join(dir, "t10k-images-idx3-ubyte"), Options{Test: true}))
	assert.Equal(t, []int{9}, first)
}

func TestIDXHostile(t *testing.T) {
	good := idxOf(make([]byte, 12), 3, 2, 2)
	zipped := gzipped(good)
	broken := bytes.Clone(zipped)
	broken[len(broken)-5] ^= 1 // of the checksum
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"cut header", good[:9], "IDX header|16 bytes|got 9"},
		{"cut", good[:20], "[3 2 2]|28 bytes|20"},
		{"more", append(bytes.Clone(good), 0), "[3 2 2]|28 bytes|29"},
		{"cut gzip", gzipped(good[:20]), "[3 2 2]|12 bytes|has 4"},
		{"more in gzip", gzipped(append(bytes.Clone(good), 0)), "[3 2 2]|12 bytes|more"},
		{"truncated gzip", zipped[:len(zipped)-9], "unexpected EOF"},
		{"checksum", broken, "invalid checksum"},
		{"labels", idxOf(make([]byte, 3), 3), "3 dimensions|00 00 08 03|00 00 08 01"},
		{"floats", append([]byte{0, 0, 13, 3}, good[4:]...), "00 00 08 03|00 00 0d 03"},
		{"no images", idxOf(nil, 0, 2, 2), "dimension 0 of 3 is 0"},
		{"no rows", idxOf(nil, 3, 0, 2), "dimension 1 of 3 is 0"},
		{"overflow", gzipped(idxOf(nil, 1<<32-1, 1<<32-1, 1<<32-1)), "dimension 0 of 3 is 4294967295"},
		{"overflow to little", gzipped(idxOf(make([]byte, 16), 1<<31, 4096, 4096)), "dimension 0 of 3 is 2147483648"},
		{"a promise of 128 MiB", gzipped(idxOf(make([]byte, 16), 8, 4096, 4096)), "134217728 bytes|has 16"},
		{"a promise of 4 GiB", gzipped(idxOf(make([]byte, 16), 256, 4096, 4096)), "4294967296 bytes"},
		{"17 million images", idxOf(nil, 1<<24+1, 1, 1), "dimension 0 of 3 is 16777217"},
		{"wide", idxOf(nil, 1, 4097, 1), "dimension 1 of 3 is 4097|4096"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "train-images-idx3-ubyte", c.data)
			n := allocated(func() {
				_, err := Open(path, Options{})
				says(t, err, c.want+"|"+path)
			})
			assert.Less(t, n, uint64(4<<20), "bytes allocated")
		})
	}
	t.Run("number of labels", func(t *testing.T) {
		dir := t.TempDir()
		path := write(t, dir, "train-images-idx3-ubyte", good)
		write(t, dir, "train-labels-idx1-ubyte", idxOf([]byte{1, 2}, 2))
		_, err := Open(path, Options{})
		require.ErrorContains(t, err, "2 labels for the 3 images")
	})
}

// The checksums are those of the uncompressed files that the set's authors publish.
func TestFashionMNIST(t *testing.T) {
	for _, c := range []struct {
		test           bool
		n              int
		stem           string
		images, labels string
		first          []int
	}{
		{false, 60000, "train", "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9", []int{9, 0, 0, 3, 0, 2, 7, 2}},
		{true, 10000, "t10k", "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965", []int{9, 2, 1, 1, 6, 1, 4, 6}},
	} {
		t.Run(c.stem, func(t *testing.T) {
			s, err := Open("fashion-mnist", Options{Test: c.test})
			if err != nil {
				t.Skipf("Fashion-MNIST is not installed: %v", err)
			}
			require.Equal(t, c.n, s.Len())
			assert.Equal(t, fashionClasses, s.Classes())
			table := s.src.(*table)
			sum := func(data []byte) string { h := md5.Sum(data); return hex.EncodeToString(h[:]) }
			assert.Equal(t, c.images, sum(idxOf(table.pixels, c.n, 28, 28)))
			assert.Equal(t, c.labels, sum(idxOf(table.labels, c.n)))
			for i, want := range c.first {
				_, label := at(t, s, i)
				assert.Equal(t, want, label)
			}
		})
	}
}

func TestNamedSetsAreFound(t *testing.T) {
	images := idxOf([]byte{7}, 1, 1, 1)
	for _, c := range []struct{ name, file string }{
		{"fashion-mnist", "train-images-idx3-ubyte"},
		{"fashion-mnist", "fashion-mnist/train-images-idx3-ubyte"},
		{"fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte"},
		{"cifar10", "data_batch_1.bin"},
		{"cifar10", "cifar-10-batches-bin/data_batch_1.bin"},
		{"cifar10", "cifar-10-binary.tar.gz"},
		{"cifar10", "cifar10/train-0.tar"},
	} {
		data := map[string][]byte{
			"train-images-idx3-ubyte": images,
			"data_batch_1.bin":        cifarOf(7),
			"cifar-10-binary.tar.gz":  gzipped(tarOf(t, "cifar-10-batches-bin/data_batch_1.bin", cifarOf(7))),
			"train-0.tar":             tarOf(t, "0.png", plain(grey(7), 32, 32), "0.cls", "9"),
		}[filepath.Base(c.file)]
		home := t.TempDir()
		for _, place := range []string{"given", "home", ".local/share/onestep", "system/datasets"} {
			t.Run(c.file+" in "+place, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), place)
				write(t, dir, c.file, data)
				t.Setenv("HOME", home)
				t.Setenv("XDG_DATA_HOME", "")
				t.Setenv("XDG_DATA_DIRS", home)
				o := Options{}
				switch place {
				case "given":
					o.Dir = dir
				case "home":
					require.NoError(t, os.Rename(dir, filepath.Join(filepath.Dir(dir), "onestep")))
					t.Setenv("XDG_DATA_HOME", filepath.Dir(dir))
				case ".local/share/onestep":
					t.Setenv("HOME", filepath.Dir(filepath.Dir(filepath.Dir(dir))))
				case "system/datasets":
					t.Setenv("XDG_DATA_DIRS", "/nowhere:"+filepath.Dir(dir))
				}
				s := opened(t, c.name, o)
				assert.Equal(t, c.name, s.Name())
				assert.Equal(t, 1, s.Len())
				if c.name == "cifar10" {
					assert.Equal(t, cifarClasses, s.Classes())
				}
			})
		}
	}
}

func TestCIFAR(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "cifar-10-batches-bin/data_batch_2.bin", cifarOf(3))
	write(t, dir, "cifar-10-batches-bin/data_batch_1.bin", cifarOf(1, 2))
	write(t, dir, "cifar-10-batches-bin/test_batch.bin", cifarOf(9))
	archive := tarOf(t, "cifar-10-batches-bin/readme.html", "", "cifar-10-batches-bin/test_batch.bin", cifarOf(9),
		"cifar-10-batches-bin/data_batch_2.bin", cifarOf(3), "cifar-10-batches-bin/data_batch_1.bin", cifarOf(1, 2))
	write(t, dir, "archive/cifar-10-binary.tar.gz", gzipped(archive))
	write(t, dir, "plain.tar", archive)
	for _, spec := range []string{"", "cifar-10-batches-bin", "archive", "archive/cifar-10-binary.tar.gz", "plain.tar"} {
		t.Run(spec, func(t *testing.T) {
			path := filepath.Join(dir, spec)
			if spec == "" {
				require.NoError(t, os.Rename(filepath.Join(dir, "plain.tar"), filepath.Join(dir, "plain")))
				defer func() {
					require.NoError(t, os.Rename(filepath.Join(dir, "plain"), filepath.Join(dir, "plain.tar")))
				}()
			}
			s := opened(t, path, Options{})
			first, labels := values(t, s)
			assert.Equal(t, []int{1, 2, 3}, labels)
			assert.Equal(t, []int{10, 20, 30}, first)
			assert.Equal(t, cifarClasses, s.Classes())
			_, labels = values(t, opened(t, path, Options{Test: true}))
			assert.Equal(t, []int{9}, labels)
		})
	}
	_, labels := values(t, opened(t, filepath.Join(dir, "cifar-10-batches-bin", "data_batch_2.bin"), Options{}))
	assert.Equal(t, []int{3}, labels)
	require.NoError(t, os.Remove(filepath.Join(dir, "cifar-10-batches-bin", "test_batch.bin")))
	_, err := Open(filepath.Join(dir, "cifar-10-batches-bin"), Options{Test: true})
	require.ErrorContains(t, err, "no test split")
}

func TestCIFARHostile(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "3073 bytes|0 bytes"},
		{"cut", cifarOf(1, 2)[:4000], "3073 bytes|927 bytes"},
		{"label", append(cifarOf(1), cifarOf(10)...), "record 1 has label 10"},
		{"CIFAR-100", bytes.Repeat(append([]byte{1, 99}, make([]byte, 3072)...), 3073), "label 99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "data_batch_1.bin", c.data)
			_, err := Open(path, Options{})
			says(t, err, c.want)
			archive := write(t, t.TempDir(), "x.tar.gz", gzipped(tarOf(t, "data_batch_1.bin", c.data)))
			_, err = Open(archive, Options{})
			says(t, err, c.want)
		})
	}
	archive := tarOf(t, "a/data_batch_1.bin", cifarOf(1), "b/data_batch_1.bin", cifarOf(1))
	_, err := Open(write(t, t.TempDir(), "x.tar", archive), Options{})
	require.ErrorContains(t, err, "two members have this name")
	_, err = Open(write(t, t.TempDir(), "x.tar", tarOf(t, "data_batch_1.bin", cifarOf(1))[:4096]), Options{})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestShards(t *testing.T) {
	image := func(v int) []byte { return plain(grey(v), 4, 4) }
	one := tarOf(t, "README.md", "none of ours", ".DS_Store", "\x00", "./a/0001.png", image(1), "./a/0001.cls", "2\n", "./a/0001.txt", "one", "./a/0001.seg.png", "no")
	two := tarOf(t, "a/0001.json", `{"label": 7, "caption": "two"}`, "a/0001.PNG", image(2), "a/0001.cls", "0", "b/0001.json", `{"label": 1, "caption": "three"}`, "b/0001.jpeg", image(3))
	dir := t.TempDir()
	write(t, dir, "train-00.tar", one)
	write(t, dir, "train-01.tgz", gzipped(two))
	write(t, dir, "val.tar", tarOf(t, "0.png", image(9)))
	check := func(t *testing.T, s *Set) {
		first, labels := values(t, s)
		assert.Equal(t, []int{1, 2, 3}, first)
		assert.Equal(t, []int{2, 0, 1}, labels)
		assert.Equal(t, []string{"0", "1", "2"}, s.Classes())
		for i, want := range []string{"one", "two", "three"} {
			got, err := s.Caption(i)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
	}
	check(t, opened(t, dir, Options{}))
	check(t, opened(t, filepath.Join(dir, "train-*"), Options{}))
	first, labels := values(t, opened(t, dir, Options{Test: true}))
	assert.Equal(t, []int{9}, first)
	assert.Equal(t, []int{-1}, labels)
	first, _ = values(t, opened(t, filepath.Join(dir, "val.tar"), Options{Test: true}))
	assert.Equal(t, []int{9}, first)

	// The members of a sample need not follow each other.
	apart := write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", image(1), "1.png", image(2), "0.cls", "1", "1.cls", "0"))
	first, labels = values(t, opened(t, apart, Options{}))
	assert.Equal(t, []int{1, 2}, first)
	assert.Equal(t, []int{1, 0}, labels)
}

func TestShardsHostile(t *testing.T) {
	image := plain(grey(1), 4, 4)
	special := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&h))
		require.NoError(t, w.Close())
		return b.Bytes()
	}
	good := tarOf(t, "0.png", image, "1.png", image)
	huge := tarOf(t, "0.png", image)
	copy(huge[124:136], "\x80\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00") // size 2^44 in base 256
	copy(huge[148:156], checksum(huge[:512]))
	large := tarOf(t, "0.png", image)
	copy(large[124:136], "01000000000\x00") // 128 MiB
	copy(large[148:156], checksum(large[:512]))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty file", nil, "after 0 members|unexpected EOF"},
		{"not a tar", bytes.Repeat([]byte("not a tar "), 200), "invalid tar header"},
		{"cut in a member", good[:600], "unexpected EOF"},
		{"cut in padding", good[:1000], "unexpected EOF"},
		{"cut between members", good[:1024], "after 1 member|unexpected EOF"},
		{"cut in a header", good[:1100], "unexpected EOF"},
		{"no end", good[:2048], "after 2 members|unexpected EOF"},
		{"one after the other", append(bytes.Clone(good), good...), "after 2 members|concatenated"},
		{"a size beyond the file", huge, "0.png"},
		{"a large size beyond the file", large, "unexpected EOF"},
		{"link", special(tar.Header{Name: "0.png", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}), "is a link to"},
		{"hard link", special(tar.Header{Name: "0.png", Linkname: "1.png", Typeflag: tar.TypeLink}), "is a link to"},
		{"device", special(tar.Header{Name: "0.png", Typeflag: tar.TypeChar}), "a device or a pipe"},
		{"up", tarOf(t, "../0.png", image), `"../0.png"|outside`},
		{"up, inside", tarOf(t, "a/../../0.png", image), `"a/../../0.png"|outside`},
		{"class", tarOf(t, "0.png", image, "0.cls", "cat"), `class index|0 to 65535|"cat"`},
		{"negative class", tarOf(t, "0.png", image, "0.cls", "-1"), "want a class index"},
		{"large class", tarOf(t, "0.png", image, "0.cls", "65536"), "want a class index"},
		{"a class for some", tarOf(t, "0.png", image, "1.png", image, "1.cls", "0"), "sample 1 of"},
		{"two images", tarOf(t, "0.png", image, "0.jpg", image), "a second image"},
		{"twice", tarOf(t, "0.png", image, "0.cls", "1", "0.cls", "2"), "duplicate|0.cls"},
		{"a long class", tarOf(t, "0.png", image, "0.cls", strings.Repeat("1", 1<<20+1)), "0.cls|1048577 bytes|1 MiB"},
	} {
		for kind, data := range map[string][]byte{"x.tar": c.data, "x.tar.gz": gzipped(c.data)} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				path := write(t, t.TempDir(), kind, data)
				n := allocated(func() {
					_, err := Open(path, Options{})
					says(t, err, c.want+"|"+path)
				})
				assert.Less(t, n, uint64(8<<20), "bytes allocated")
			})
		}
	}
	t.Run("checksum of gzip", func(t *testing.T) {
		data := gzipped(good)
		data[len(data)-5] ^= 1
		_, err := Open(write(t, t.TempDir(), "x.tar.gz", data), Options{})
		require.ErrorContains(t, err, "checksum")
	})
	t.Run("truncated gzip", func(t *testing.T) {
		data := gzipped(good)
		_, err := Open(write(t, t.TempDir(), "x.tar.gz", data[:len(data)-8]), Options{})
		require.ErrorContains(t, err, "unexpected EOF")
	})
}

// checksum is a tar header's own: the sum of its bytes, those of the checksum taken as spaces.
func checksum(header []byte) string {
	sum := 0
	for i, b := range header {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int(b)
	}
	digits := []byte("000000\x00 ")
	for i := 5; i >= 0; i-- {
		digits[i] = '0' + byte(sum&7)
		sum >>= 3
	}
	return string(digits)
}

func TestShardsWithDamagedImages(t *testing.T) {
	image := plain(grey(1), 4, 4)
	data := tarOf(t, "0.png", []byte("GIF"), "1.png", image, "2.png", image[:len(image)-20], "3.txt", "no image", "4.png", image, "5.png", "")
	for _, name := range []string{"x.tar", "x.tar.gz"} {
		t.Run(name, func(t *testing.T) {
			packed := data
			if name == "x.tar.gz" {
				packed = gzipped(data)
			}
			s := opened(t, write(t, t.TempDir(), name, packed), Options{})
			require.Equal(t, 6, s.Len())
			dst := make([]byte, 3*4*4)
			for _, i := range []int{5, 3, 2, 0, 0} {
				_, err := s.Read(i, dst)
				var corrupt *CorruptError
				require.ErrorAs(t, err, &corrupt)
				assert.Contains(t, corrupt.Name, name+": ")
			}
			at(t, s, 1)
			at(t, s, 4)
			var got []string
			for _, c := range s.Corrupt() {
				_, member, _ := strings.Cut(c.Error(), name+": ")
				got = append(got, member)
			}
			require.Len(t, got, 4)
			for i, want := range []string{"0.png: ", "2.png: ", "3: ", "5.png: "} {
				assert.True(t, strings.HasPrefix(got[i], want), got[i])
			}
			assert.Contains(t, got[2], strings.Join(imagefile.Extensions, ", "))
		})
	}
}

func TestCIFARShards(t *testing.T) {
	dir := filepath.Dir(sharedData(t, "cifar10/test-00.tar.gz"))
	for _, s := range []*Set{opened(t, filepath.Join(dir, "train-0[0]*"), Options{}), opened(t, dir, Options{Test: true})} {
		require.Equal(t, 10000, s.Len())
		assert.Len(t, s.Classes(), 10)
		seen := map[int]bool{}
		for i := 0; i < s.Len(); i += 100 {
			_, label := at(t, s, i)
			seen[label] = true
		}
		assert.Empty(t, s.Corrupt())
		assert.Len(t, seen, 10)
	}
	s := opened(t, "cifar10", Options{Dir: dir, Test: true})
	assert.Equal(t, cifarClasses, s.Classes())
	assert.Equal(t, "cifar10", s.Name())
}

// A plain shard is read in place: 15 MB of WebP images.
func TestFluentShard(t *testing.T) {
	s := opened(t, sharedData(t, "emoji/fluent3d-256.tar"), Options{Resolution: 32})
	require.Equal(t, 1852, s.Len())
	px, label := at(t, s, 1000)
	assert.Equal(t, -1, label)
	assert.Equal(t, byte(255), px[0])
	caption, err := s.Caption(1000)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(caption, "a 3d emoji of "), caption)
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"b/1.png", "a/deep/2.png", "a/0.PNG", "c.d/3.png"} {
		write(t, dir, "classes/"+name, plain(grey(i), 4, 4))
	}
	write(t, dir, "classes/.hidden/4.png", nil)
	write(t, dir, "classes/a/._0.png", nil)
	write(t, dir, "classes/a/notes.txt", nil)
	require.NoError(t, os.Symlink(filepath.Join(dir, "classes"), filepath.Join(dir, "link")))
	for _, name := range []string{"classes", "link"} {
		s := opened(t, filepath.Join(dir, name), Options{})
		first, labels := values(t, s)
		assert.Equal(t, []int{2, 1, 0, 3}, first)
		assert.Equal(t, []int{0, 0, 1, 2}, labels)
		assert.Equal(t, []string{"a", "b", "c.d"}, s.Classes())
	}

	write(t, dir, "flat/x.png", plain(grey(1), 4, 4))
	write(t, dir, "flat/more/y.png", plain(grey(2), 4, 4))
	require.NoError(t, os.Symlink(filepath.Join(dir, "classes", "b"), filepath.Join(dir, "flat", "linked")))
	s := opened(t, filepath.Join(dir, "flat"), Options{})
	first, labels := values(t, s)
	assert.Equal(t, []int{0, 2, 1}, first)
	assert.Equal(t, []int{-1, -1, -1}, labels)
	assert.Empty(t, s.Classes())
	caption, err := s.Caption(0)
	require.NoError(t, err)
	assert.Empty(t, caption)

	write(t, dir, "splits/train/cat/1.png", plain(grey(1), 4, 4))
	write(t, dir, "splits/train/dog/2.png", plain(grey(2), 4, 4))
	write(t, dir, "splits/val/cat/3.png", plain(grey(3), 4, 4))
	first, labels = values(t, opened(t, filepath.Join(dir, "splits"), Options{}))
	assert.Equal(t, []int{1, 2}, first)
	assert.Equal(t, []int{0, 1}, labels)
	first, _ = values(t, opened(t, filepath.Join(dir, "splits"), Options{Test: true}))
	assert.Equal(t, []int{3}, first)

	require.NoError(t, os.Symlink("..", filepath.Join(dir, "flat", "circle")))
	_, err = Open(filepath.Join(dir, "flat"), Options{})
	require.ErrorContains(t, err, "symbolic links")
}

func TestFolderWithDamagedImages(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "0.png", nil)
	write(t, dir, "1.png", plain(grey(1), 4, 4))
	write(t, dir, "2.png", plain(grey(2), 4, 4))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "3.png"), 0o644))
	big := write(t, dir, "4.png", nil)
	require.NoError(t, os.Truncate(big, vision.MaxEncoded+1))
	s := opened(t, dir, Options{})
	dst := make([]byte, 48)
	for i, want := range []string{"it is empty", "", "", "not a regular file", "256 MiB"} {
		_, err := s.Read(i, dst)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		assert.ErrorContains(t, err, want)
	}
	assert.Len(t, s.Corrupt(), 3)
}

func TestSizesThatDifferLate(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * looked {
		h := 4
		if i == 3 { // not one of those that are looked at
			h = 5
		}
		write(t, dir, fmt.Sprintf("%03d.png", i), plain(grey(i), 4, h))
	}
	s := opened(t, dir, Options{})
	_, err := s.Read(3, make([]byte, 48))
	require.ErrorContains(t, err, "003.png has 4×5 pixels, others have 4×4; choose a resolution")
	var corrupt *CorruptError
	assert.NotErrorAs(t, err, &corrupt)
}

func TestCache(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "0.png", plain(grey(7), 4, 4))
	s := opened(t, dir, Options{})
	want, _ := at(t, s, 0)
	require.NoError(t, os.Remove(filepath.Join(dir, "0.png")))
	got, _ := at(t, s, 0)
	assert.Equal(t, want, got)
}

// Sets are told apart by what is in them, not by where they lie.
func TestIdentity(t *testing.T) {
	identity := func(path string) string {
		t.Helper()
		s, err := Open(path, Options{Resolution: 4})
		require.NoError(t, err)
		defer s.Close()
		id, err := s.Identity()
		require.NoError(t, err)
		return id
	}
	folder := func(pairs ...any) string {
		dir := t.TempDir()
		for i := 0; i < len(pairs); i += 2 {
			write(t, dir, pairs[i].(string), pairs[i+1].([]byte))
		}
		return dir
	}
	a, b := plain(grey(10), 4, 4), plain(grey(200), 8, 8)
	images := identity(folder("x/1.png", a, "y/2.png", b))
	require.Regexp(t, `^2 images, sha256 [0-9a-f]{16}$`, images)
	require.Equal(t, images, identity(folder("x/1.png", a, "y/2.png", b)))
	shard := identity(folder("1.tar", tarOf(t, "1.png", a, "1.cls", "0", "2.png", b, "2.cls", "1")))
	require.Equal(t, shard, identity(folder("other.tar.gz", gzipped(tarOf(t, "1.png", a, "1.cls", "0", "2.png", b, "2.cls", "1")))))
	idx := func(pixel byte) string {
		return write(t, t.TempDir(), "train-images-idx3-ubyte", append([]byte{0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2}, pixel, 2, 3, 4))
	}
	require.Equal(t, identity(idx(1)), identity(idx(1)))
	seen := map[string]bool{images: true, shard: true, identity(idx(1)): true, identity("emoji"): true}
	for _, other := range []string{
		folder("x/1.png", a, "y/2.png", a), folder("x/1.png", a, "x/2.png", b), folder("x/1.png", a, "y/3.png", b), folder("x/1.png", a),
		folder("1.tar", tarOf(t, "1.png", a, "1.cls", "1", "2.png", b, "2.cls", "1")), folder("1.tar", tarOf(t, "1.png", b, "1.cls", "0", "2.png", b, "2.cls", "1")),
		idx(2),
	} {
		id := identity(other)
		require.False(t, seen[id], other)
		seen[id] = true
	}
}

// Content is what an image is stored as: for a directory the files' bytes, for a table its pixels.
func TestContent(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		img := image.NewNRGBA(image.Rect(0, 0, 8, 8))
		img.Pix[0] = uint8(i)
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, img))
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.png", i)), b.Bytes(), 0o600))
	}
	set, err := Open(dir, Options{})
	require.NoError(t, err)
	defer set.Close()
	for i := range 2 {
		want, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.png", i)))
		require.NoError(t, err)
		got, err := set.Content(i)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = set.Content(2)
	require.ErrorContains(t, err, "out of range")
	emoji, err := Open("emoji", Options{})
	require.NoError(t, err)
	defer emoji.Close()
	got, err := emoji.Content(3)
	require.NoError(t, err)
	c, h, w := emoji.Shape()
	pixels := make([]byte, c*h*w)
	_, err = emoji.Read(3, pixels)
	require.NoError(t, err)
	require.Equal(t, pixels, got)
}
