package job

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/recipe"
)

// DataSummary describes a run's training data.
type DataSummary struct {
	Name          string
	Images        int
	Folders       int // directories that contain images; 0: the data is not image files
	Side, Colors  int
	Classes       []string // with image counts, such as "cat (12)"
	Conditional   bool     // training uses the classes
	StepsPerEpoch float64
	Epochs        float64 // in the whole run
	LeftOut       string  // image files in formats that are not read, such as "2 .avif, 1 .heic"
	Notices       []string
}

// summary summarizes the data.
func summary(p *recipe.Plan) DataSummary {
	o, data := p.Run, p.Data
	c, h, _ := data.Shape()
	d := DataSummary{Name: data.Name(), Images: data.Len(), Folders: data.Folders(), Side: h, Colors: c, Conditional: o.Classes, LeftOut: data.LeftOut(), Notices: data.Notices()}
	d.StepsPerEpoch = float64(data.Len()) / float64(o.Batch)
	d.Epochs = float64(o.Steps) / d.StepsPerEpoch
	for i, n := range data.Counts() {
		d.Classes = append(d.Classes, fmt.Sprintf("%s (%d)", data.Classes()[i], n))
	}
	return d
}

// Values lists the summary as keys and values for a log.
func (d DataSummary) Values() []any {
	v := []any{"name", quote.Text(d.Name), "images", d.Images}
	if d.Folders > 0 {
		v = append(v, "directories", d.Folders)
	}
	if n := len(d.Classes); n > 0 {
		const most = 12
		names := strings.Join(quote.Texts(d.Classes[:min(n, most)]), ", ")
		if n > most {
			names += fmt.Sprintf(" and %d more", n-most)
		}
		used := "not used without --classes"
		if d.Conditional {
			used = "used"
		}
		v = append(v, "classes", n, "images_by_class", names, "labels", used)
	}
	return append(v, "size", fmt.Sprintf("%d×%d×%d", d.Colors, d.Side, d.Side), "steps_per_epoch", fmt.Sprintf("%.4g", d.StepsPerEpoch), "epochs", fmt.Sprintf("%.4g", d.Epochs))
}
