"""Draws guidance.svg from closed forms: `python docs/figures/guidance.py > docs/figures/guidance.svg`.

Real and model are mixtures of two Gaussians on a line, at one noise level. All curves and arrows are exact.
"""

import numpy as np

REAL = ([0.5, 0.5], [-1.6, 1.6], 0.62)  # weights, means, standard deviation with noise
MODEL = ([0.8, 0.2], [-1.1, 1.9], 0.80)
LEFT, RIGHT, LOW, HIGH = 60, 900, -3.6, 3.6

STYLE = """
    text { font: 14px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #4a5566 }
    .title { font-weight: 600; font-size: 15px; fill: #1c2430 }
    .real, .model, .guided { fill: none; stroke-width: 2.5 }
    .real { stroke: #2a8150 } .model { stroke: #2f6bd0 } .guided { stroke: #b4501c }
    text.real { fill: #2a8150; stroke: none } text.model { fill: #2f6bd0; stroke: none }
    text.guided { fill: #b4501c; stroke: none } .axis { stroke: #8a96a8 }
    @media (prefers-color-scheme: dark) {
      text { fill: #b7c1d0 } .title { fill: #eef2f7 } .axis { stroke: #7c889b }
      .real { stroke: #5fc08a } .model { stroke: #6ea0f5 } .guided { stroke: #f0935c }
      text.real { fill: #5fc08a } text.model { fill: #6ea0f5 } text.guided { fill: #f0935c }
    }"""


def parts(mixture, x):
    weights, means, deviation = mixture
    density = [w * np.exp(-((x - m) ** 2) / (2 * deviation**2)) for w, m in zip(weights, means, strict=True)]
    return np.array(density) / (deviation * np.sqrt(2 * np.pi))


def density(mixture, x):
    return parts(mixture, x).sum(0)


def score(mixture, x):
    _, means, deviation = mixture
    each = parts(mixture, x)
    return (each * (np.array(means)[:, None] - x) / deviation**2).sum(0) / each.sum(0)


def across(x):
    return LEFT + (x - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def curve(x, y, name):
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), y, strict=True))
    return f'<polyline class="{name}" points="{points}"/>'


def main():
    x = np.linspace(LOW, HIGH, 161)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 430" role="img" aria-labelledby="t d">',
        '<title id="t">Guidance in one figure</title>',
        '<desc id="d">Above: the densities of noisy real images and of the frozen model, which puts too much '
        "mass on the left. Below: the score of the model, the gradient of the log-ratio, and their sum, the "
        "score of the real images.</desc>",
        f"<style>{STYLE}\n</style>",
        '<text class="title" x="60" y="24">Densities at one noise level</text>',
        *(
            curve(x, 190 - 400 * density(mixture, x), name)
            for mixture, name in ((REAL, "real"), (MODEL, "model"))
        ),
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="190" y2="190"/>',
        '<text class="model" x="440" y="62">frozen model</text>',
        '<text class="real" x="740" y="80">real images</text>',
        '<text class="title" x="60" y="232">Scores: model + gradient of the log-ratio = real</text>',
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="325" y2="325"/>',
    ]
    model, real = score(MODEL, x), score(REAL, x)
    for values, name in ((model, "model"), (real - model, "guided"), (real, "real")):
        lines.append(curve(x, 325 - 12 * values, name))
    lines += [
        '<text class="model" x="120" y="352">score of the model</text>',
        '<text class="guided" x="560" y="280">gradient of the log-ratio, learned by the discriminator</text>',
        '<text class="real" x="180" y="270">sum: the score of real images</text>',
        f'<text x="{RIGHT - 10}" y="415">x</text>',
        "</svg>",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
