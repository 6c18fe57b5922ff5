'use strict';
{
  const charts = [...document.querySelectorAll('.chart')];
  for (const chart of charts) {
    const {data, layout} = JSON.parse(chart.querySelector('script').textContent);
    Plotly.newPlot(chart, data, layout, {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'zoomIn2d', 'zoomOut2d'],
      toImageButtonOptions: {scale: 2},
    });
  }
  // A chart keeps the width that it was drawn with; a sheet of paper is narrower than a screen.
  addEventListener('beforeprint', () => charts.forEach(chart => Plotly.relayout(chart, {width: 690})));
  addEventListener('afterprint', () => charts.forEach(chart => Plotly.relayout(chart, {width: null, autosize: true})));

  for (const table of document.querySelectorAll('table.sortable')) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => heading.querySelector('button').addEventListener('click', () => {
      const order = heading.getAttribute('aria-sort');
      const numeric = heading.classList.contains('number');
      const descending = order ? order === 'ascending' : numeric;
      headings.forEach(other => other.removeAttribute('aria-sort'));
      heading.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      const value = row => numeric ? row.cells[column].dataset.value : row.cells[column].textContent;
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, {numeric: true});
      const sorted = [...table.tBodies[0].rows].sort((row, other) => {
        const a = value(row), b = value(other);
        // What has no value stays at the end, whichever way the table is sorted.
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        return descending ? compare(b, a) : compare(a, b);
      });
      table.tBodies[0].append(...sorted);
    }));
  }

  const links = new Map([...document.querySelectorAll('nav a')].map(link => [link.hash.slice(1), link]));
  const mark = () => {
    const sections = [...document.querySelectorAll('main > section')];
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter(section => section.getBoundingClientRect().top < innerHeight / 3);
    const here = atEnd && scrollY ? sections.at(-1) : passed.at(-1) ?? sections[0];
    links.forEach((link, id) => link.classList.toggle('here', id === here?.id));
  };
  addEventListener('scroll', mark, {passive: true});
  mark();
}
