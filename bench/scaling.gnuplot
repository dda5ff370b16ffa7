# The picture of bench/scaling: three panels of tokens a second, measured (points) and allowed by the roofs (dashes).
# Called with `scratch`, `svg` and `thread_list`.
set terminal svg size 1500,520 background '#ffffff' font 'sans,13'
set output svg
set multiplot layout 1,3
set grid lc rgb '#e4e4e4'
set border 3
set tics nomirror
set logscale xy
set key bottom right reverse Left samplen 2
set ylabel 'tokens a second'
colors = '#1b6ca8 #c2571a #2a7f3f #7a3e9d #8a6d00 #555555'
file(kind, i) = sprintf('%s/%s.%s', scratch, kind, word(thread_list, i))
threads(i) = word(thread_list, i) . (word(thread_list, i) eq '1' ? ' thread' : ' threads')
do for [panel = 1:3] {
    kind = word('prompt depth batch', panel)
    set title word('prefill decode decode', panel) . (panel == 1 ? ', by length of the prompt' : panel == 2 ? ', by depth of the cache' : ', by sequences at a time')
    set xlabel panel == 1 ? 'tokens of the prompt' : panel == 2 ? 'tokens in the cache (0 stands at 32)' : 'sequences'
    set xtics auto
    if (panel == 3) { set logscale x 2 } else { set logscale x 10 }
    plot for [i = 1:words(thread_list)] file(kind, i) \
             using (panel == 2 && $1 == 0 ? 32 : $1):2 with linespoints lw 2 pt 7 ps 0.7 lc rgb word(colors, i) \
             title threads(i), \
         for [i = 1:words(thread_list)] file(kind, i) \
             using (panel == 2 && $1 == 0 ? 32 : $1):3 with lines dt 2 lw 1.5 lc rgb word(colors, i) \
             title threads(i) . ', allowed by the roofs'
}
unset multiplot
