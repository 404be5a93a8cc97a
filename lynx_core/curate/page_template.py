"""The page's HTML, for Jinja. It follows the reader's light or dark setting, and fits a narrow window."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Curation: {{ num_files }} files, {{ num_people }} people</title>
<style>
{{ style|safe }}</style>
</head>
<body>
<main>
<h1>Curation</h1>
<p class="soft">One person from a cosine of {{ '%.3f'|format(facts.threshold) }} of {{ facts.recogniser }} ({{ facts.threshold_origin }}); other photos and clips above {{ '%.3f'|format(facts.too_alike) }} are left out as too alike, augmented references are not.</p>
<div class="figures">
<div class="card figure"><b>{{ num_files }}</b>files</div>
<div class="card figure"><b>{{ num_people }}</b>people</div>
<div class="card figure"><b>{{ kinds.values()|sum(attribute='count') }}</b>pairs</div>
{% for kind, some in kinds.items() %}
<div class="card figure"><b>{{ some.count }}</b>{{ kind }}<br><span class="soft">{{ '%.0f'|format(100 * facts.kinds[kind].share) }} %, weight {{ facts.kinds[kind].weight }}</span></div>
{% endfor %}
</div>
<h2>Stages, and what they rejected</h2>
<div class="card scroll"><table>
<tr><th>stage</th><th class="number">records</th><th class="number">rejected</th><th>reason</th><th>first example</th></tr>
{% for stage in stages %}
<tr><td class="name"><b>{{ stage.name }}</b></td><td class="number">{{ stage.records }}</td><td></td><td></td><td></td></tr>
{% for item in stage.reasons %}
<tr><td></td><td></td><td class="number">{{ item.count }}</td><td style="min-width: 150px">{{ item.reason }}</td><td class="soft">{{ item.subject }}: {{ item.detail }}</td></tr>
{% endfor %}
{% endfor %}
</table></div>
<h2>Similarity</h2>
<div class="two">
{% for histogram in histograms %}
{{ chart(histogram) }}
{% endfor %}
</div>
<h2>People</h2>
{% if people|length < num_people %}<p class="soft">{{ people|length }} of {{ num_people }}, those with most pairs.</p>{% endif %}
<div class="people">
{% for person in people %}
<div class="card"><h3>{{ person.name }}</h3>
<div class="faces">{% for face in person.faces %}<img src="{{ face.picture }}" title="{{ face.title }}" alt="{{ face.title }}">{% endfor %}</div>
<p class="soft" style="margin: 8px 0 0">{{ person.tracks }} track{{ '' if person.tracks == 1 else 's' }} in {{ person.files }} file{{ '' if person.files == 1 else 's' }}, {{ person.scenes }} scene{{ '' if person.scenes == 1 else 's' }}, {{ person.pairs }} pair{{ '' if person.pairs == 1 else 's' }}{% if person.split == 'heldout' %}, held out{% endif %}{% if person.tracks > 1 %}; least alike track {{ '%.3f'|format(person.lowest) }}{% endif %}</p>
{% if person.look_alike %}<p class="warn" style="margin: 4px 0 0">near the threshold to {{ person.look_alike }}</p>{% endif %}
</div>
{% endfor %}
</div>
{% if look_alikes %}
<h2>Look-alikes</h2>
<p class="soft">Tracks that lie near the threshold to another person. Look at them: twins, relatives, or one person under two names.</p>
<div class="card scroll"><table>
<tr><th>track</th><th>is</th><th class="number">cosine</th><th>next</th><th class="number">cosine</th></tr>
{% for item in look_alikes %}
<tr><td class="soft">{{ item.subject }}</td><td class="name">{{ item.person }}</td><td class="number">{{ '%.3f'|format(item.similarity) }}</td><td class="name">{{ item.other }}</td><td class="number">{{ '%.3f'|format(item.other_similarity) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% for kind, some in kinds.items() %}
<h2>{{ kind }}: {{ some.count }} pairs</h2>
<p class="soft">{% if some.pairs|length < some.count %}{{ some.pairs|length }} of them. {% endif %}Reference left, target right.</p>
<div class="pairs">{% for pair in some.pairs %}{{ show(pair) }}{% endfor %}</div>
{% endfor %}
{% if worst %}
<h2>Least alike</h2>
<div class="pairs">{% for pair in worst %}{{ show(pair) }}{% endfor %}</div>
<h2>Most alike</h2>
<div class="pairs">{% for pair in best %}{{ show(pair) }}{% endfor %}</div>
{% endif %}
<h2>Licences and consent</h2>
<div class="two">
<div class="card"><h3>Models</h3><table>{% for name, licence in facts.licences.items() %}<tr><th>{{ name }}</th><td>{{ licence }}</td></tr>{% endfor %}</table></div>
<div class="card"><h3>Sources</h3><table><tr><th class="number">pairs</th><th>licence</th><th>consent</th></tr>{% for source in facts.sources %}<tr><td class="number">{{ source.pairs }}</td><td>{{ source.licence or 'not stated' }}</td><td>{{ source.consent or 'not stated' }}</td></tr>{% endfor %}</table></div>
</div>
</main>
</body>
</html>
"""

CALIBRATION_TEMPLATE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Calibration of {{ recogniser }}</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>Calibration</h1>
<p class="soft">{{ recogniser }}: {{ num_photos }} photos of {{ num_people }} people.</p>
<div class="figures">
<div class="card figure"><b>{{ '%.4f'|format(threshold) }}</b>threshold</div>
<div class="card figure"><b>{{ '%.4g'|format(seen_false_accept_rate) }}</b>false accepts seen, {{ '%g'|format(false_accept_rate) }} asked</div>
<div class="card figure"><b>{{ '%.3f'|format(true_accept_rate) }}</b>true accepts</div>
</div>
{{ chart(histograms[0]) }}
{% for warning in warnings %}<p class="warn" style="margin-top: 14px">{{ warning }}</p>{% endfor %}
</main></body></html>
"""
