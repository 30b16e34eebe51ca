// Owns: a plot as SVG text: axes with ticks, linear or logarithmic, a marker for each point; lines labelled at their
// right end, a legend on request; or points labelled beside them, with a colour and a marker a group. Colours are those
// of Okabe and Ito, told apart by colour-blind readers too. Must not know: meft, files.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench::plot {

struct Line {
  std::string name;
  std::vector<std::pair<double, double>> points;  // in drawing order
  std::size_t group = 0;                          // of a point, among the figure's
};

struct Figure {
  std::string title, subtitle, x_label, y_label;
  std::vector<Line> lines;
  bool points = false;                // each line is a point, and its name stands beside it
  std::vector<std::string> groups{};  // of points; named in a legend, those that have any
  bool log_x = false, log_y = false;  // a linear axis of y starts at 0, but for points
  bool x_at_points = true;            // ticks where the points are, when these are at most ten
  int width = 820, height = 520;      // pixels
};

namespace detail {

inline constexpr std::array<const char*, 8> colours{"#000000", "#D55E00", "#0072B2", "#009E73",
                                                    "#CC79A7", "#E69F00", "#56B4E9", "#767676"};
inline constexpr std::array<const char*, 4> dashes{"", "7 4", "2 4", "10 4 2 4"};

inline std::string number(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.10g", x);
  return text;
}
inline std::string pixels(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.1f", x);
  return text;
}
inline std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}
/// About how wide text is, for room at the side; code points count, not bytes.
inline double text_width(const std::string& text, double size) {
  const auto characters = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return 0.58 * size * static_cast<double>(characters);
}

/// One axis: data in [low, high] to pixels in [from, to].
struct Axis {
  double low, high, from, to;
  bool log;
  std::vector<double> ticks{}, grid{};

  double at(double x) const {
    const double share = log ? std::log(x / low) / std::log(high / low) : (x - low) / (high - low);
    return from + share * (to - from);
  }
};

/// Round steps (1, 2 or 5 times a power of ten) that give about `count` ticks.
inline double round_step(double range, int count) {
  const double raw = range / count, power = std::pow(10.0, std::floor(std::log10(raw))), lead = raw / power;
  return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

inline Axis linear(double low, double high, bool from_zero, double from, double to) {
  if (from_zero) low = std::min(low, 0.0);
  if (high <= low) high = low + 1;
  const double step = round_step(high - low, 6);
  if (from_zero) {
    low = std::floor(low / step) * step;
    high = std::ceil(high / step - 1e-9) * step;
  } else {
    const double room = 0.04 * (high - low);
    low -= room;
    high += room;
  }
  Axis axis{low, high, from, to, false};
  for (double x = std::ceil(low / step - 1e-9) * step; x <= high + 1e-9 * step; x += step)
    axis.ticks.push_back(std::fabs(x) < 1e-9 * step ? 0 : x);
  axis.grid = axis.ticks;
  return axis;
}

inline Axis logarithmic(double low, double high, double from, double to) {
  if (!(low > 0)) throw std::invalid_argument("plot: a logarithmic axis needs positive values");
  low /= 1.15;
  high *= 1.15;
  Axis axis{low, high, from, to, true};
  const bool wide = high / low > 2000;
  for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10)
    for (int lead = 1; lead < 10; ++lead) {
      const double x = lead * power;
      if (x < low || x > high) continue;
      axis.grid.push_back(x);
      if (lead == 1 || (!wide && (lead == 2 || lead == 5))) axis.ticks.push_back(x);
    }
  return axis;
}

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& o) const { return left < o.right && o.left < right && top < o.bottom && o.top < bottom; }
  bool within(const Box& o) const { return left >= o.left && right <= o.right && top >= o.top && bottom <= o.bottom; }
};

/// Boxes for the names of points, which lie neither on each other nor on a point: beside it, else above or below,
/// further away in turn. Those with the most neighbours choose first.
inline std::vector<Box> labels(const std::vector<std::pair<double, double>>& points, const std::vector<double>& widths,
                               const Box& room) {
  std::vector<Box> taken, out(points.size());
  std::vector<std::size_t> order;
  std::vector<int> near(points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto [x, y] = points[i];
    taken.push_back({x - 6, y - 6, x + 6, y + 6});
    order.push_back(i);
    for (const auto& [other_x, other_y] : points) near[i] += std::hypot(other_x - x, 3 * (other_y - y)) < 90;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return near[a] < near[b]; });
  std::reverse(order.begin(), order.end());
  for (const std::size_t i : order) {
    const auto [x, y] = points[i];
    const double width = widths[i];
    const auto at = [&](double left, double middle) { return Box{left, middle - 8, left + width, middle + 8}; };
    Box best = at(x + 9, y);
    const auto fits = [&](const Box& box) {
      return box.within(room) && std::none_of(taken.begin(), taken.end(), [&](const Box& o) { return box.meets(o); });
    };
    for (double away = 0; away < 140 && !fits(best); away += 4)
      for (const Box& box :
           {at(x + 9, y - away), at(x + 9, y + away), at(x - 9 - width, y - away), at(x - 9 - width, y + away),
            at(x - width / 2, y - 15 - away), at(x - width / 2, y + 15 + away), at(x + 9 + away, y - away),
            at(x + 9 + away, y + away), at(x - 9 - away - width, y - away), at(x - 9 - away - width, y + away)})
        if (fits(box)) {
          best = box;
          break;
        }
    taken.push_back(best);
    out[i] = best;
  }
  return out;
}

inline std::string line(double x1, double y1, double x2, double y2, const char* kind) {
  return "<line class=\"" + std::string(kind) + "\" x1=\"" + pixels(x1) + "\" y1=\"" + pixels(y1) + "\" x2=\"" +
         pixels(x2) + "\" y2=\"" + pixels(y2) + "\"/>\n";
}
inline std::string text(double x, double y, const std::string& words, const char* kind, const std::string& more = "") {
  return "<text class=\"" + std::string(kind) + "\" x=\"" + pixels(x) + "\" y=\"" + pixels(y) + "\"" + more + ">" +
         escaped(words) + "</text>\n";
}

/// Circle, square, triangle, diamond, in turn.
inline std::string marker(std::size_t kind, double x, double y, const std::string& colour) {
  const auto polygon = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::string out = "<polygon points=\"";
    for (const auto& [dx, dy] : corners) out += pixels(x + dx) + "," + pixels(y + dy) + " ";
    return out + "\" fill=\"" + colour + "\"/>\n";
  };
  switch (kind % 4) {
    case 0: return "<circle cx=\"" + pixels(x) + "\" cy=\"" + pixels(y) + "\" r=\"4\" fill=\"" + colour + "\"/>\n";
    case 1: return polygon({{-3.7, -3.7}, {3.7, -3.7}, {3.7, 3.7}, {-3.7, 3.7}});
    case 2: return polygon({{0, -5}, {4.6, 3.6}, {-4.6, 3.6}});
    default: return polygon({{0, -5.2}, {5.2, 0}, {0, 5.2}, {-5.2, 0}});
  }
}

/// Moves heights in ascending order apart to at least `gap`, within [top, bottom] where they fit.
inline void spread(std::vector<double>& y, double gap, double top, double bottom) {
  for (int pass = 0; pass < 200; ++pass)  // neighbours that overlap share the move
    for (std::size_t i = 1; i < y.size(); ++i)
      if (const double short_of = gap - (y[i] - y[i - 1]); short_of > 0) {
        y[i - 1] -= short_of / 2;
        y[i] += short_of / 2;
      }
  if (!y.empty()) y.back() = std::min(y.back(), bottom);
  for (std::size_t i = y.size(); i-- > 1;) y[i - 1] = std::min(y[i - 1], y[i] - gap);
  if (!y.empty()) y.front() = std::max(y.front(), top);
  for (std::size_t i = 1; i < y.size(); ++i) y[i] = std::max(y[i], y[i - 1] + gap);
}

}  // namespace detail

/// The figure as an SVG document. Throws std::invalid_argument for no points, and for values that are not finite or,
/// on a logarithmic axis, not positive.
inline std::string svg(const Figure& figure) {
  using namespace detail;
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY, names = 0;
  std::vector<double> places;
  for (const auto& l : figure.lines) {
    for (const auto& [x, y] : l.points) {
      if (!std::isfinite(x) || !std::isfinite(y))
        throw std::invalid_argument("plot: a point of " + l.name + " is not finite");
      x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      y_low = std::min(y_low, y), y_high = std::max(y_high, y);
      places.push_back(x);
    }
    names = std::max(names, text_width(l.name, 14));
  }
  if (places.empty()) throw std::invalid_argument("plot: there are no points");
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());

  const double width = figure.width, height = figure.height, left = 84,
               right = width - (figure.points ? 24 : 44 + names), bottom = height - 64;
  double top = figure.subtitle.empty() ? 62 : 84;
  std::string above;
  std::vector<std::pair<std::size_t, std::string>> legend;
  for (std::size_t i = 0; i < figure.groups.size(); ++i)
    if (std::any_of(figure.lines.begin(), figure.lines.end(), [&](const Line& l) { return l.group == i; }))
      legend.emplace_back(i, figure.groups[i]);
  if (!legend.empty()) {
    double x = left, y = top;
    for (const auto& [i, name] : legend) {
      const double room = text_width(name, 14) + 36;
      if (x > left && x + room > width - 16) x = left, y += 22;
      above += marker(i, x + 8, y - 5, colours[i % colours.size()]) + text(x + 20, y, name, "name");
      x += room;
    }
    top = y + 24;
  }
  Axis across = figure.log_x ? logarithmic(x_low, x_high, left, right) : linear(x_low, x_high, false, left, right);
  const Axis up =
      figure.log_y ? logarithmic(y_low, y_high, bottom, top) : linear(y_low, y_high, !figure.points, bottom, top);
  if (figure.x_at_points && places.size() <= 10) across.ticks = places;

  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(width) + "\" height=\"" +
                    number(height) + "\" viewBox=\"0 0 " + number(width) + " " + number(height) +
                    "\" role=\"img\">\n<title>" + escaped(figure.title) +
                    "</title>\n<style>\n"
                    "text { font-family: 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', "
                    "sans-serif; fill: #222; }\n"
                    ".title { font-size: 18px; font-weight: 600; }\n.subtitle { font-size: 14px; fill: #555; }\n"
                    ".tick { font-size: 13px; }\n.axis { font-size: 14px; }\n.name { font-size: 14px; }\n"
                    ".beside { paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-linejoin: round; }\n"
                    ".grid { stroke: #e4e4e4; }\n.frame { stroke: #444; }\n.lead { stroke: #999; stroke-width: 0.8; }\n"
                    "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
  out += text(left, 32, figure.title, "title");
  if (!figure.subtitle.empty()) out += text(left, 54, figure.subtitle, "subtitle");
  out += above;

  for (double y : up.grid) out += line(left, up.at(y), right, up.at(y), "grid");
  for (double y : up.ticks) {
    out += line(left - 5, up.at(y), left, up.at(y), "frame");
    out += text(left - 9, up.at(y) + 4.5, number(y), "tick", " text-anchor=\"end\"");
  }
  for (double x : across.ticks) {
    out += line(across.at(x), bottom, across.at(x), bottom + 5, "frame");
    out += text(across.at(x), bottom + 21, number(x), "tick", " text-anchor=\"middle\"");
  }
  out += line(left, bottom, right, bottom, "frame") + line(left, top, left, bottom, "frame");
  out += text((left + right) / 2, height - 18, figure.x_label, "axis", " text-anchor=\"middle\"");
  const std::string middle = pixels((top + bottom) / 2);
  out += text(24, (top + bottom) / 2, figure.y_label, "axis",
              " text-anchor=\"middle\" transform=\"rotate(-90 24 " + middle + ")\"");

  const std::size_t marks_at = out.size();
  for (std::size_t i = 0; i < figure.lines.size(); ++i) {
    const std::size_t kind = figure.groups.empty() ? i : figure.lines[i].group;
    const std::string colour = colours[kind % colours.size()], dash = dashes[i / colours.size() % dashes.size()];
    std::string path, marks;
    for (const auto& [x, y] : figure.lines[i].points) {
      path += (path.empty() ? "M" : "L") + pixels(across.at(x)) + " " + pixels(up.at(y));
      marks += marker(kind, across.at(x), up.at(y), colour);
    }
    if (figure.points) out += marks;
    else
      out += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + colour +
             "\" stroke-width=\"2.2\" stroke-linejoin=\"round\"" +
             (dash.empty() ? "" : " stroke-dasharray=\"" + dash + "\"") + "/>\n" + marks;
  }

  if (figure.points) {
    std::vector<std::pair<double, double>> points;
    std::vector<double> widths;
    for (const auto& l : figure.lines) {
      points.push_back({across.at(l.points.back().first), up.at(l.points.back().second)});
      widths.push_back(text_width(l.name, 14));
    }
    const auto boxes = labels(points, widths, {left + 4, top - 14, width - 4, bottom - 2});
    std::string leads, names_beside;
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      const auto [x, y] = points[i];
      const Box& box = boxes[i];
      const double to_x = std::clamp(x, box.left, box.right), to_y = std::clamp(y, box.top + 3, box.bottom - 3);
      if (std::hypot(to_x - x, to_y - y) > 14) leads += line(x, y, to_x, to_y, "lead");
      const std::size_t kind = figure.groups.empty() ? i : figure.lines[i].group;
      const bool before = box.right < x, over = !before && box.left < x;
      names_beside += text(before ? box.right
                           : over ? (box.left + box.right) / 2
                                  : box.left,
                           (box.top + box.bottom) / 2 + 4.5, figure.lines[i].name, "name beside",
                           std::string(before ? " text-anchor=\"end\""
                                       : over ? " text-anchor=\"middle\""
                                              : "") +
                               " style=\"fill:" + std::string(colours[kind % colours.size()]) + "\"");
    }
    out.insert(marks_at, leads);  // below the points
    out += names_beside;
    return out + "</svg>\n";
  }
  std::vector<std::size_t> order;  // of the labels, from above
  for (std::size_t i = 0; i < figure.lines.size(); ++i)
    if (!figure.lines[i].points.empty()) order.push_back(i);
  const auto end = [&](std::size_t i) { return figure.lines[i].points.back(); };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return end(a).second > end(b).second; });
  std::vector<double> heights;
  for (std::size_t i : order) heights.push_back(up.at(end(i).second));
  spread(heights, 18, top, bottom);
  for (std::size_t k = 0; k < order.size(); ++k) {
    const auto [x, y] = end(order[k]);
    out += line(across.at(x) + 7, up.at(y), right + 20, heights[k], "lead");
    out += text(right + 24, heights[k] + 5, figure.lines[order[k]].name, "name",
                " style=\"fill:" + std::string(colours[order[k] % colours.size()]) + "\"");
  }
  return out + "</svg>\n";
}

}  // namespace bench::plot
