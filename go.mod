module github.com/onestep-go/onestep

go 1.26.0
