"""The colours of every picture and of the page of a report.

The first six are from Okabe & Ito. They and the classes differ under normal vision, protanopia, deuteranopia and
tritanopia: no two of them, nor one of them and the grey of prior draws, are nearer than 10 in CIEDE2000. In grey they
differ in lightness, and nothing is shown by colour alone.

Reference:
    Okabe & Ito, "Color Universal Design: how to make figures and presentations that are friendly to colorblind people",
    2008. https://jfly.uni-koeln.de/color/
"""

BLUE, RED, GREEN, ORANGE, SKY, PINK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY, PALE, INK = "#6f7580", "#e4e7ec", "#22262e"
BEHIND = "#cccccc"  # draws of the prior, behind the codes: no class has a grey
CLASSES = (BLUE, ORANGE, GREEN, RED, INK, SKY, PINK, "#332288", "#661100", "#7a4a1e")
