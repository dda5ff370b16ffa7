# The picture of bench/cuda/run: what each scheme loses against what it gains, prefill and decode. Called with `table`
# (scheme, prefill and decode tokens a second, perplexity of the demo model), `svg`, `model` and `device`.
set terminal svg size 1200,520 background '#ffffff' font 'sans,13'
set output svg
set datafile separator "\t"
set multiplot layout 1,2 title device . ': speed of ' . model . ', perplexity of the demo model'
set grid lc rgb '#e4e4e4'
set border 3
set tics nomirror
set ylabel 'perplexity'
set offsets graph 0.05, graph 0.25, graph 0.05, graph 0.05
unset key
do for [column = 2:3] {
    set title column == 2 ? 'prefill' : 'decode'
    set xlabel 'tokens a second'
    plot table using column:4 skip 1 with points pt 7 ps 0.8 lc rgb '#1b6ca8', \
         '' using column:4:1 skip 1 with labels left offset 0.7,0.2 font ',10' noenhanced
}
unset multiplot
